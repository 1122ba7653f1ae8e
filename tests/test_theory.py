"""What docs/theory.md claims, checked in numbers; the scalar regions against SciPy; the maps against an examination."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.autograd.functional import jacobian as jacobian_of

from loopscope import FunctionLoop, LoopedTransformer, LoopedTransformerConfig, LoopscopeError, examine, theory
from loopscope.jacobian import input_jacobian, step_jacobian
from loopscope.loop import iterate
from loopscope.reports.kit.charts import png
from loopscope.reports.theory_figures import KINDS, kinds, maps_figure, scalar_figure
from loopscope.schema import to_plain
from loopscope.stability import Status
from loopscope.stability.verdict import ANSWERS_STAND
from loopscope.theory.__main__ import main
from loopscope.theory.maps import AXES, NORMS, RECALLS, ScaledLoop, full_matrix, scaled_loop, with_unit_state
from loopscope.theory.scalar import draw_gains
from loopscope.trees import flatten, token_norms

EVERY = [(recall, norm) for recall in RECALLS for norm in NORMS]
RECALLED = [recall for recall in RECALLS if recall != "none"]
NORMALIZED = ["outer", "sandwich"]
SMALL = theory.Grid(points=3, width=8, tokens=3, inputs=4, iterations=100)

gains = st.integers(-20_000, 20_000).map(lambda thousandths: thousandths / 1000)
pairs = st.lists(st.tuples(gains, gains), min_size=1, max_size=30).map(lambda rows: np.array(rows, dtype=np.float64))
regions = st.sampled_from(list(theory.REGIONS.values()))


def distances(first, second):
    return np.linalg.norm(first - second, axis=1)


# The scalar regions


@given(regions, pairs)
def test_a_projection_lies_in_the_region_and_is_its_own(region, points):
    projected = region.project(points)
    assert region.contains(projected, 1e-9).all()
    np.testing.assert_allclose(region.project(projected), projected, atol=1e-9)


@given(regions, pairs)
def test_points_inside_stay_bit_for_bit(region, points):
    inside = points[region.contains(points)]
    assert (region.project(inside) == inside).all()


@settings(max_examples=30)
@given(regions, pairs)
def test_no_point_of_a_fine_grid_is_nearer(region, points):
    side = np.linspace(-21, 21, 421)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    grid = grid[region.contains(grid)]
    own = distances(region.project(points), points)
    nearest = np.array([distances(grid, point).min() for point in points])
    assert (own <= nearest + 1e-9).all()


@pytest.mark.parametrize("recall", list(theory.REGIONS))
def test_projection_agrees_with_scipy(recall):
    region = theory.REGIONS[recall]
    points = draw_gains(3.0, 60, seed=5)
    stable = {"type": "ineq", "fun": lambda z: 1 - region.multiplier(z[None])[0] ** 2}
    starts = np.array([[0.1, -0.1], [-0.1, 0.1], [3.0, -0.2], [-0.2, 3.0], [-3.0, 0.2], [0.2, -3.0], [3.0, -1.0]])
    for point, mine in zip(points, region.project(points), strict=True):
        found = [
            minimize(lambda z, p=point: ((z - p) ** 2).sum(), start, method="SLSQP", constraints=[stable])
            for start in (point, *starts)
        ]
        best = min(
            math.sqrt(one.fun) for one in found if one.success and abs(region.multiplier(one.x[None])[0]) <= 1 + 1e-6
        )
        assert math.dist(mine, point) == pytest.approx(best, abs=1e-4)


def test_equally_near_points_and_far_points_are_projected_exactly():
    external = theory.REGIONS["external"]
    # From (p, p - 1), p > 2, two mirrored points are nearest: x + 1/x = p.
    (projected,) = external.project(np.array([[3.0, 2.0]]))
    larger = (3 + math.sqrt(5)) / 2
    assert sorted([projected[0], projected[1] + 1]) == pytest.approx([1 / larger, larger], rel=1e-12)
    np.testing.assert_allclose(external.project(np.array([[2.0, 1.0]])), [[1.0, 0.0]], atol=1e-4)  # a triple root
    np.testing.assert_allclose(external.project(np.array([[1e6, 4.0]])), [[1e6, -1 + 1e-6]], atol=1e-4)
    internal = theory.REGIONS["internal"]
    np.testing.assert_array_equal(internal.project(np.array([[3.0, 1.0], [-1.0, -3.0]])), [[3, 0], [0, -3]])
    np.testing.assert_allclose(internal.project(np.array([[2.0, -2.0]])), [[math.sqrt(2), -math.sqrt(2)]], atol=1e-7)


def test_balance_of_known_gains():
    found = theory.balance(np.array([[1.0, -2.0], [3.0, 0.0], [0.0, 0.0], [5.0, 5.0]]))
    np.testing.assert_array_equal(found, [0.5, 0.0, 1.0, 1.0])


def test_small_gains_have_the_balance_of_a_random_direction():
    # The mean of tan over [0, pi/4] is (2 / pi) ln 2; internal recall sends half of the directions to an axis.
    mean = 2 / math.pi * math.log(2)
    external = theory.projected_balance("external", 1e-3, points=100_000)
    assert external.mean == pytest.approx(mean, abs=4 * external.standard_error)
    assert (external.on_axis, external.inside) == (0, 1)
    internal = theory.projected_balance("internal", 1e-3, points=100_000)
    assert internal.mean == pytest.approx(mean / 2, abs=4 * internal.standard_error)
    assert internal.on_axis == pytest.approx(0.5, abs=0.007)
    assert internal.standard_error == pytest.approx(0.2965 / math.sqrt(100_000), rel=0.02)


def test_the_papers_numbers_but_one():
    papers = {"internal": (0.225, 0.225, 0.223, 0.180, 0.094), "external": (0.444, 0.442, 0.414, 0.332, 0.220)}
    off = {
        (recall, sigma): abs(theory.projected_balance(recall, sigma).mean - theirs)
        for recall, row in papers.items()
        for sigma, theirs in zip(theory.SIGMAS, row, strict=True)
    }
    assert off.pop(("external", 4.0)) == pytest.approx(0.023, abs=0.001)  # docs/theory.md says what is known of it
    assert max(off.values()) < 0.0035


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("none", 1.0), "recall is 'none'"),
        (("internal", 0.0), "sigma is 0"),
        (("internal", 1.0, 1), "points is 1"),
    ],
)
def test_refused_projections(options, message):
    with pytest.raises(LoopscopeError, match=message):
        theory.projected_balance(*options)


# The maps


def transformer(recall, norm, seed=0, gain=True):
    """Return a tiny model in float64; its last normalization has an uneven gain."""
    torch.manual_seed(seed)
    config = LoopedTransformerConfig(
        recall=recall, norm=norm, width=8, heads=2, inputs=5, outputs=2, grid=(3,), attention="full"
    )
    model = LoopedTransformer(config).double().requires_grad_(False)
    if gain:
        for module in model.blocks.modules():
            if isinstance(module, torch.nn.RMSNorm):
                module.weight.copy_(0.5 + torch.rand_like(module.weight))
    return model


@pytest.mark.parametrize(("recall", "norm"), EVERY)
def test_a_scaled_loop_is_the_model_with_scaled_weights(recall, norm):
    model = with_unit_state(transformer(recall, norm))
    if recall != "none":
        assert float(torch.linalg.eigvals(model.recall.state.weight).abs().max()) == pytest.approx(1)
    pairs = torch.tensor([[1.0, 1.0], [0.7, 3.0]], dtype=torch.float64)
    scaled = copy.deepcopy(model)
    block = scaled.blocks[0]
    for linear in (block.attention.out, block.mlp[2]):
        linear.weight *= 3.0
        linear.bias *= 3.0
    for linear in [scaled.recall.state] if recall != "none" else [block.attention.query_key_value, block.mlp[0]]:
        linear.weight *= 0.7
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    loop = ScaledLoop(model, pairs)
    recalled = loop.encode({"inputs": x, "point": torch.tensor([0, 1])})
    state = torch.randn(2, 3, 8, dtype=torch.float64)
    after = loop.step(state, recalled)
    for row, own in enumerate((model, scaled)):
        expected = own.step(state[row : row + 1], own.encode(x[row : row + 1]))
        torch.testing.assert_close(after[row : row + 1], expected)


def test_a_full_matrix_is_the_jacobian():
    model = transformer("internal", "outer")
    x, state = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    recalled = model.encode(x)
    formed = full_matrix(step_jacobian(model, state, recalled))
    inward = full_matrix(input_jacobian(model, state, recalled, x))
    for row in range(2):
        own = {name: value[row : row + 1] for name, value in recalled.items()}
        expected = jacobian_of(lambda z, own=own: model.step(z[None], own)[0], state[row])
        torch.testing.assert_close(formed[row], expected.reshape(24, 24))
        through = jacobian_of(lambda u, z=state[row]: model.step(z[None], model.encode(u[None]))[0], x[row])
        torch.testing.assert_close(inward[row], through.reshape(24, 15))


@pytest.mark.parametrize(
    ("recall", "norm", "point"), [("internal", "outer", 1), ("internal", "outer", 3), ("none", "outer", 0)]
)
def test_a_map_says_what_an_examination_says(recall, norm, point):
    grid = theory.Grid((0.3, 3.0), (1.0, 30.0), points=2, width=8, tokens=3, inputs=2, iterations=80)
    axes = theory.spectral_map(recall, norm, grid).axes[point]
    loop, inputs = scaled_loop(recall, norm, grid)
    own = {name: leaf[point::4] for name, leaf in inputs.items()}
    exam = examine(loop, own, effort="quick", iterations=80, trained_iterations=30)
    for mine, theirs in zip(axes, exam.axes, strict=True):
        assert (mine.name, mine.status) == (theirs.name, theirs.status)
        # A map has no readout, so that answers have no part in it.
        assert set(theirs.numbers) - set(mine.numbers) <= {ANSWERS_STAND}
        for measure, number in mine.numbers.items():
            value = theirs.numbers[measure]
            # The cotangents are others here, so gradients agree but for their random part.
            rel = 0.1 if measure.startswith("gradient") else 0.02
            assert number == (None if value is None else pytest.approx(value, rel=rel))


@pytest.mark.parametrize("norm", NORMS)
def test_without_recall_input_dependence_holds_nowhere(norm):
    found = theory.spectral_map("none", norm, SMALL)
    dependence = [axes[1] for axes in found.axes]
    assert {axis.status for axis in dependence} <= {Status.FAILS, Status.UNKNOWN}
    assert {axis.numbers["fraction moved"] for axis in dependence} <= {0.0, None}
    assert {axis.numbers["fraction shared"] for axis in dependence} <= {1.0, None}
    assert found.areas["input-dependence"] == found.areas["all"] == 0
    if norm in NORMALIZED:
        assert found.areas["reachability"] > 0.5


@pytest.mark.parametrize("recall", RECALLED)
def test_recall_and_outer_normalization_have_a_wide_regime(recall):
    outer, pre = (theory.spectral_map(recall, norm, SMALL).areas for norm in ("outer", "pre"))
    assert outer["all"] >= max(0.3, pre["all"])
    assert recall == "external" or pre["all"] == 0


def test_areas_count_what_holds_and_a_map_is_plain():
    found = theory.spectral_map("external", "outer", SMALL, seed=1)
    assert found.holds.shape == (3, 3, 3)
    assert found.areas["all"] == found.holds.all(-1).mean() <= min(found.areas[name] for name in AXES)
    for k, name in enumerate(AXES):
        counted = sum(axes[k].status is Status.HOLDS for axes in found.axes)
        assert found.areas[name] == pytest.approx(counted / 9)
    for axes in found.axes:
        for axis in axes:
            assert all(value is None or not math.isnan(value) for value in axis.numbers.values())
    assert to_plain(vars(found)["state_gains"]) == pytest.approx([0.1, 1.0, 10.0])
    again = theory.spectral_map("external", "outer", SMALL, seed=1)
    assert again == found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: theory.Grid(points=1), "at least 2 points"),
        (lambda: theory.Grid(state_gains=(1.0, 0.5)), "state_gains"),
        (lambda: theory.Grid(iterations=0), "iterations is 0"),
        (lambda: theory.spectral_map("intern", "outer", SMALL), "did you mean internal"),
        (lambda: theory.spectral_map("internal", "post", SMALL), "norm is 'post'"),
    ],
)
def test_refused_maps(make, message):
    with pytest.raises(LoopscopeError, match=message):
        make()


def test_figures_show_what_the_maps_hold():
    found = theory.spectral_map("internal", "outer", SMALL)
    shown = kinds(found)
    assert (shown == 0).mean() == found.areas["all"]
    assert (shown != len(KINDS) - 1).mean() == found.areas["reachability"]
    for figure, axes in ((maps_figure([found]), 1), (scalar_figure(shown=40), 2)):
        assert len(figure.axes) == axes
        assert png(figure).startswith(b"\x89PNG")


def test_the_command_prints_both_tables(capsys, monkeypatch):
    monkeypatch.setattr("loopscope.theory.__main__.NORMS", ("outer",))
    main(["--points", "500", "--grid", "2", "--seeds", "0", "--iterations", "20"])
    scalar, areas = capsys.readouterr().out.strip().split("\n\n")
    assert len(scalar.splitlines()) == 2 + 10
    assert len(areas.splitlines()) == 2 + 3


def test_importing_the_package_leaves_the_theory_out():
    code = "import sys, loopscope; sys.exit('loopscope.theory' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The theorems


def settle(step, state, iterations=2000):
    for _ in range(iterations):
        state = step(state)
    return state


def test_without_recall_the_end_is_constant_within_a_basin():
    # z <- tanh(2 z) has in each coordinate the attracting points +-s and the repelling 0.
    def ends(e):
        return settle(lambda z: torch.tanh(2 * z), e)

    torch.manual_seed(0)
    e = torch.randn(200, 3, dtype=torch.float64)
    small = 1e-3 * torch.randn_like(e)
    same = (e.sign() == (e + small).sign()).all(1)
    assert same.sum() > 150
    torch.testing.assert_close(ends(e + small)[same], ends(e)[same], rtol=0, atol=1e-14)
    # At most 2^3 ends, however many inputs: the input chooses a basin and no more.
    assert len(torch.unique(ends(e).round(decimals=9), dim=0)) == 8


def test_with_recall_the_implicit_derivative_is_the_finite_change():
    torch.manual_seed(1)
    n, m, h = 6, 4, 1e-6
    w, u = (torch.randn(n, k, dtype=torch.float64) * 0.3 for k in (n, m))
    loop = FunctionLoop(
        lambda x: x, lambda e: torch.zeros(len(e), n).to(e), lambda z, e: torch.tanh(z @ w.T + e @ u.T), lambda z: z
    )
    e = torch.randn(1, m, dtype=torch.float64)
    fixed = settle(lambda z: loop.step(z, e), loop.start(e))
    # z = tanh(Wz + Ue): J = D W and df/de = D U with D = diag(1 - z^2).
    d = torch.diag(1 - fixed[0] ** 2)
    known = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - d @ w, d @ u)
    jacobian = full_matrix(step_jacobian(loop, fixed, e))[0]
    implicit = torch.linalg.solve(
        torch.eye(n, dtype=torch.float64) - jacobian, full_matrix(input_jacobian(loop, fixed, e))[0]
    )
    torch.testing.assert_close(implicit, known)
    for k in range(m):
        change = torch.zeros_like(e)
        change[0, k] = h
        up, down = (settle(lambda z, side=side: loop.step(z, side), fixed) for side in (e + change, e - change))
        torch.testing.assert_close((up - down)[0] / (2 * h), known[:, k], rtol=1e-6, atol=1e-9)
    # The input moves the point in as many directions as U has: not so without recall.
    assert int(torch.linalg.matrix_rank(known)) == m


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_the_jacobian_of_rmsnorm_and_the_left_direction_it_removes(seed, size):
    generator = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
    x, g = size * x, g.abs() + 0.1
    eps = 1e-6
    jacobian = jacobian_of(lambda v: torch.nn.functional.rms_norm(v, (7,), g, eps), x)
    square = x.square().mean() + eps
    formula = torch.diag(g) / square.sqrt() @ (torch.eye(7, dtype=torch.float64) - torch.outer(x, x) / (7 * square))
    torch.testing.assert_close(jacobian, formula)
    n = torch.nn.functional.rms_norm(x, (7,), g, eps) / g**2
    # What is left of it is eps / rms^2 of the plain scaling: nothing, unless the token itself is tiny.
    torch.testing.assert_close(n @ jacobian, eps / square**2 * x, rtol=1e-6, atol=1e-9 / size)
    # It is a left direction: the right one, J x, vanishes likewise, but J z of another state does not.
    torch.testing.assert_close(jacobian @ x, eps / square**1.5 * g * x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("recall", RECALLS)
@pytest.mark.parametrize("norm", NORMALIZED)
def test_outer_normalization_bounds_tokens_and_removes_a_direction_of_each(recall, norm):
    model = transformer(recall, norm)
    gain = model.blocks[0].residual.norm_out.weight
    recalled = model.encode(torch.randn(1, 3, 5, dtype=torch.float64).expand(5, -1, -1))
    sizes = torch.tensor([1e-4, 1e-2, 1.0, 1e2, 1e5], dtype=torch.float64)
    after = model.step(sizes[:, None, None] * torch.randn(5, 3, 8, dtype=torch.float64), recalled)
    assert (token_norms(after / gain) <= math.sqrt(8)).all()
    assert (token_norms(after) <= math.sqrt(8) * gain.max()).all()

    jacobian = full_matrix(step_jacobian(model, after, recalled))
    image = model.step(after, recalled)
    for token in range(3):
        left = torch.zeros_like(image)
        left[:, token] = (image / gain**2)[:, token]
        left = flatten(left)
        passed = torch.linalg.vector_norm(torch.einsum("bi,bij->bj", left, jacobian), dim=1)
        assert (
            passed <= 1e-4 * torch.linalg.matrix_norm(jacobian, ord=2) * torch.linalg.vector_norm(left, dim=1)
        ).all()
    values = torch.linalg.svdvals(jacobian)
    assert (values[:, -3:] <= 1e-4 * values[:, :1]).all()
    # Removed on the left is not annihilated on the right: Jz is not zero.
    pushed = torch.einsum("bij,bj->bi", jacobian, flatten(after))
    assert (torch.linalg.vector_norm(pushed, dim=1) > 1e-3 * torch.linalg.vector_norm(flatten(after), dim=1)).all()


@pytest.mark.parametrize("recall", ["none", "internal"])
def test_the_gates_of_a_gru_keep_the_cube(recall):
    model = transformer(recall, "gru")
    recalled = model.encode(10 * torch.randn(50, 3, 5, dtype=torch.float64))
    state = 2 * torch.rand(50, 3, 8, dtype=torch.float64) - 1
    assert model.step(state, recalled).abs().max() <= 1
    assert (model.step(100 * state, recalled).abs().amax((1, 2)) <= (100 * state).abs().amax((1, 2))).all()


def test_peri_grows_at_most_linearly_and_pre_can_have_no_fixed_point():
    model = transformer("internal", "peri")
    recalled = model.encode(torch.randn(4, 3, 5, dtype=torch.float64))
    bound = 2 * math.sqrt(8) * float(model.blocks[0].residual.norm_update.weight.max())
    state = model.start(recalled)
    for _ in range(50):
        after = model.step(state, recalled)
        assert (token_norms(after - state) <= bound).all()
        state = after
    # Sub-layers that return a constant: z + c is never z.
    model = transformer("internal", "pre")
    for linear in (model.blocks[0].attention.out, model.blocks[0].mlp[2]):
        linear.weight.zero_()
    state = torch.randn(4, 3, 8, dtype=torch.float64)
    constant = model.blocks[0].attention.out.bias + model.blocks[0].mlp[2].bias
    torch.testing.assert_close(model.step(state, recalled) - state, constant.expand(4, 3, 8))


@pytest.mark.parametrize("norm", ["pre", "peri"])
def test_external_recall_adds_something_bounded_to_w_state(norm):
    model = transformer("external", norm)
    recalled = model.encode(torch.randn(1, 3, 5, dtype=torch.float64).expand(60, -1, -1))
    direction = torch.randn(60, 3, 8, dtype=torch.float64)
    added = [
        token_norms(model.step(size * direction, recalled) - size * direction @ model.recall.state.weight.T).max()
        for size in (1.0, 1e3, 1e6)
    ]
    assert max(added) <= 1.5 * added[0]


def strengthened(model, strength):
    """Return the model with W_input and its bias scaled."""
    model = copy.deepcopy(model)
    model.recall.input.weight *= strength
    model.recall.input.bias *= strength
    return model


def jacobian_norms(model, x, states=20):
    """Return ||J|| at random states on the sphere that outer normalization leaves them on."""
    generator = torch.Generator().manual_seed(3)
    state = torch.randn(states, 3, 8, generator=generator, dtype=torch.float64)
    state = torch.nn.functional.rms_norm(state, (8,))
    return torch.linalg.matrix_norm(
        full_matrix(step_jacobian(model, state, model.encode(x.expand(states, -1, -1)))), ord=2
    )


@pytest.mark.parametrize("recall", RECALLED)
@pytest.mark.parametrize("norm", NORMALIZED)
def test_strong_recall_makes_a_normalized_loop_a_contraction(recall, norm):
    model = transformer(recall, norm, gain=False)
    x = torch.randn(1, 3, 5, dtype=torch.float64)
    at = {strength: jacobian_norms(strengthened(model, strength), x) for strength in (1.0, 1e3, 1e4)}
    assert at[1e3].max() < 0.1
    # ||J|| falls as one over the strength of the recall, once for each sub-layer that recalls.
    power = {"external": 1, "internal": 2}[recall]
    torch.testing.assert_close(at[1e4] * 10**power, at[1e3], rtol=0.1, atol=0)
    strong = strengthened(model, 1e3)
    recalled = strong.encode(x.expand(30, -1, -1))
    ends = iterate(strong, 5 * torch.randn(30, 3, 8, dtype=torch.float64), recalled, 60)
    torch.testing.assert_close(ends, ends[:1].expand(30, -1, -1), rtol=0, atol=1e-10)
    # And it is this problem's own point: another input has another.
    other = strong.encode(x + torch.randn_like(x))
    assert torch.linalg.vector_norm(iterate(strong, ends[:1], other, 60) - ends[:1]) > 0.1


def test_strong_recall_does_not_make_pre_a_contraction():
    model = transformer("internal", "pre", gain=False)
    x = torch.randn(1, 3, 5, dtype=torch.float64)
    assert jacobian_norms(strengthened(model, 1e3), x).min() >= 1
