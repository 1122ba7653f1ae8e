"""Input-dependence on small networks whose fixed points are all known."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.stability.dependence.distinct import distinct, distinct_fixed_points
from loopscope.stability.dependence.sensitivity import finite_input_change, input_sensitivity, start_sensitivity
from loopscope.stability.dependence.swap_test import SwapOutcome, swap_test
from loopscope.stability.dependence.variance import share_of_variance, variance_share
from loopscope.stability.distances import in_pairs, partners, why_alone
from loopscope.stability.orbits.arrival import FixedPoints
from loopscope.stability.orbits.normalized import normalized
from loopscope.stability.orbits.trace import trace
from loopscope.trees import select

F64 = torch.float64
# PyTorch's own forward mode loads rules through torch.jit.script on first use, which it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def loop_of(step, start=lambda e: e, padding=None, encode=lambda x: x) -> FunctionLoop:
    return FunctionLoop(encode=encode, start=start, step=step, read=lambda state: state, padding=padding)


def drawn(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def newton_roots(step, width, per_axis=9):
    """Return all fixed points in [-1, 1]^width that Newton finds from a grid, and whether each is stable."""
    axes = torch.meshgrid(*[torch.linspace(-1.1, 1.1, per_axis, dtype=F64)] * width, indexing="ij")
    points = torch.stack([axis.flatten() for axis in axes], 1)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: step(z[None])[0]))
    eye = torch.eye(width, dtype=F64)
    for _ in range(60):
        points = points - torch.linalg.lstsq(jacobian(points) - eye, (step(points) - points)[:, :, None])[0].squeeze(2)
    points = points[(step(points) - points).norm(dim=1) < 1e-12]
    roots: list[torch.Tensor] = []
    for point in points:
        if all((point - root).norm() > 1e-6 for root in roots):
            roots.append(point)
    found = torch.stack(roots)
    return found, torch.linalg.eigvals(jacobian(found)).abs().amax(1) < 1


# Symmetric weights with gains above one: several stable fixed points in two and three dimensions.
PLANE = torch.tensor([[2.0, 0.3], [0.3, 1.8]], dtype=F64)
SPACE = torch.tensor([[1.8, 0.1, -0.05], [0.1, 1.6, 0.08], [-0.05, 0.08, 1.7]], dtype=F64)


@pytest.mark.parametrize("weight", [PLANE, SPACE], ids=["plane", "space"])
def test_an_autonomous_network_has_finitely_many_fixed_points_the_same_for_every_input(weight):
    width = len(weight)
    roots, stable = newton_roots(lambda z: torch.tanh(z @ weight), width)
    assert len(roots) == 3**width
    assert int(stable.sum()) == 2**width
    loop = loop_of(lambda z, e: torch.tanh(z @ weight))
    inputs = drawn(48, width)
    path = trace(loop, inputs, iterations=300)
    assert path.arrived.all()
    apart = torch.cdist(path.state, roots[stable], compute_mode="donot_use_mm_for_euclid_dist")
    assert float(apart.amin(1).amax()) < 1e-9

    growth = distinct_fixed_points(loop, inputs, path, inputs, iterations=300)
    assert torch.equal(growth.own_cluster[:, None] == growth.own_cluster, apart.argmin(1)[:, None] == apart.argmin(1))
    assert growth.own.tolist()[-1] == 2**width
    assert int(growth.own[-1]) == int(growth.own[24])
    assert growth.common.tolist() == [1] * 48
    assert set(growth.common_cluster.tolist()) == {0}

    swaps = swap_test(loop, inputs, path, iterations=300)
    differ = apart.argmin(1) != apart.argmin(1).roll(-1)
    for row, other in enumerate(differ.tolist()):
        assert swaps.recall.outcomes[row] is (SwapOutcome.STAYED if other else SwapOutcome.SHARED)
        assert swaps.start.outcomes[row] is (SwapOutcome.MOVED if other else SwapOutcome.SHARED)
    assert swaps.recall.fraction(SwapOutcome.STAYED) == pytest.approx(float(differ.double().mean()))

    sensitivity = input_sensitivity(loop, inputs, path)
    assert (sensitivity.gain == 0).all()
    change = finite_input_change(loop, inputs, path, sensitivity, iterations=50)
    assert (change.gain == 0).all()
    assert (change.disagreement == 0).all()
    assert variance_share(loop, inputs, path.state, iterations=300).share < 0.2


def test_an_autonomous_network_can_follow_its_start_without_end():
    """x -> x + sin(2 pi x) / 10 keeps every half-integer plus a half: countably many, chosen by the start alone."""
    loop = loop_of(lambda z, e: z + torch.sin(2 * math.pi * z) / 10)
    inputs = torch.arange(30, dtype=F64)[:, None] + 0.3
    path = trace(loop, inputs, iterations=200)
    torch.testing.assert_close(path.state, inputs.floor() + 0.5)
    growth = distinct_fixed_points(loop, inputs, path, inputs, iterations=200)
    assert growth.own.tolist() == list(range(1, 31))
    assert growth.common.tolist() == [1] * 30
    swaps = swap_test(loop, inputs, path, iterations=200)
    assert swaps.recall.fraction(SwapOutcome.STAYED) == 1
    assert swaps.start.fraction(SwapOutcome.MOVED) == 1
    assert (swaps.recall.fraction_moved, swaps.recall.fraction_shared) == (0, 0)
    assert swaps.fraction_shared(torch.zeros(30, dtype=torch.long)) == 0


@pytest.mark.parametrize("width", [2, 3])
def test_a_recall_network_has_a_fixed_point_of_its_own_for_every_input(width):
    weight, into = 0.3 * drawn(width, width, seed=1), drawn(width, width, seed=2)
    loop = loop_of(lambda z, e: torch.tanh(z @ weight + e @ into))
    inputs = drawn(30, width)
    path = trace(loop, inputs, iterations=300)
    for row in range(0, 30, 10):
        known = inputs[row] @ into
        roots, stable = newton_roots(lambda z, known=known: torch.tanh(z @ weight + known), width)
        assert len(roots) == 1
        assert stable.all()
        torch.testing.assert_close(path.state[row], roots[0], rtol=0, atol=1e-10)
    growth = distinct_fixed_points(loop, inputs, path, inputs, iterations=300)
    assert growth.own.tolist() == growth.common.tolist() == list(range(1, 31))
    swaps = swap_test(loop, inputs, path, iterations=300)
    assert swaps.recall.fraction(SwapOutcome.MOVED) == 1
    assert swaps.start.fraction(SwapOutcome.STAYED) == 1
    share = variance_share(loop, inputs, path.state, iterations=300)
    assert share.share == pytest.approx(1.0)
    assert share.within < 1e-20 < share.between


def test_a_recall_network_with_several_fixed_points_per_input():
    """Own memory in the first number, the input in the second: neither the one point nor the other."""
    loop = loop_of(lambda z, e: torch.stack([torch.tanh(3 * z[:, 0]), e[:, 1]], 1))
    inputs = torch.tensor([[1.0, 0.2], [-1.0, 1.2], [-2.0, 1.2], [-1.0, -3.0]], dtype=F64)
    path = trace(loop, inputs, iterations=100)
    swaps = swap_test(loop, inputs, path, iterations=100)
    assert swaps.recall.outcomes == (
        SwapOutcome.ELSEWHERE,
        SwapOutcome.SHARED,
        SwapOutcome.MOVED,
        SwapOutcome.ELSEWHERE,
    )
    top = float(path.state[0, 0])
    torch.testing.assert_close(swaps.distance[0], torch.tensor(math.hypot(2 * top, 1.0), dtype=F64))
    torch.testing.assert_close(swaps.recall.to_own[0], 1 / swaps.distance[0])
    torch.testing.assert_close(swaps.recall.to_other[0], 2 * top / swaps.distance[0])
    assert torch.isnan(swaps.recall.to_own[1])
    assert swaps.recall.fraction(SwapOutcome.ELSEWHERE) == 0.5
    assert swaps.recall.fraction_moved == swaps.recall.fraction_shared == 0.25


def test_what_a_swap_cannot_tell_is_unknown():
    loop = loop_of(lambda z, e: 0.9 * z + e)
    inputs = drawn(4, 2)
    exact = 10 * inputs
    zero = torch.zeros(4, dtype=F64)
    some = FixedPoints(exact, zero, torch.tensor([True, True, False, True]))
    swaps = swap_test(loop, inputs, some, iterations=500)
    expected = (SwapOutcome.MOVED, SwapOutcome.UNKNOWN, SwapOutcome.UNKNOWN, SwapOutcome.MOVED)
    assert swaps.recall.outcomes == expected
    assert swaps.recall.fraction(SwapOutcome.MOVED) == 1
    assert swaps.recall.fraction(SwapOutcome.UNKNOWN) == 0.5
    every = torch.ones(4, dtype=torch.bool)
    early = swap_test(loop, inputs, FixedPoints(exact, zero, every), iterations=10)
    assert set(early.recall.outcomes) == {SwapOutcome.UNKNOWN}
    assert early.recall.fraction(SwapOutcome.MOVED) is None
    assert early.recall.fraction_moved is early.recall.fraction_shared is None
    # After 10 steps of rate 0.9 the swapped state has gone 1 - 0.9^10 of the way.
    torch.testing.assert_close(early.recall.to_other, torch.full((4,), 0.9**10, dtype=F64))
    # An error of a tenth of D cannot place an end within a tenth of D; one of half of D is the same point.
    for part, outcome in ((0.11, SwapOutcome.UNKNOWN), (0.51, SwapOutcome.SHARED)):
        error = part * torch.full((4,), float(swaps.distance.amax()), dtype=F64)
        coarse = swap_test(loop, inputs, FixedPoints(exact, error, every), iterations=500)
        assert coarse.recall.outcomes[int(swaps.distance.argmax())] is outcome
        assert SwapOutcome.MOVED not in coarse.recall.outcomes
    mask = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    tokens = loop_of(loop.step, padding=lambda e: e[:, :, 0] != 0)
    padded = torch.where(mask[:, :, None], drawn(4, 2, 3), 0.0)
    swaps = swap_test(tokens, padded, trace(tokens, padded, iterations=500), iterations=500)
    assert swaps.start.outcomes == (SwapOutcome.STAYED, SwapOutcome.STAYED, SwapOutcome.UNKNOWN, SwapOutcome.STAYED)
    assert swaps.partner.tolist() == [1, 3, 2, 0]
    with pytest.raises(LoopscopeError, match="pairs each example with itself"):
        swap_test(loop, inputs, some, iterations=5, shift=4)
    with pytest.raises(LoopscopeError, match="a single input has no other to be swapped with: give at least two"):
        swap_test(loop, inputs[:1], trace(loop, inputs[:1], iterations=5), iterations=5)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_clusters_of_well_separated_points(seed, kinds):
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, kinds, (40,), generator=generator)
    state = 5.0 * kind[:, None].to(F64) + 0.1 * (torch.rand(40, 1, generator=generator, dtype=F64) - 0.5)
    arrived = torch.rand(40, generator=generator) < 0.8
    counts, cluster = distinct(FixedPoints(state, torch.full((40,), 0.1, dtype=F64), arrived))
    seen = kind[arrived].tolist()
    assert counts.tolist() == [len(set(seen[: n + 1])) for n in range(len(seen))]
    assert (cluster[~arrived] == -1).all()
    assert torch.equal(cluster[arrived][:, None] == cluster[arrived], kind[arrived][:, None] == kind[arrived])
    assert all(after - before in (0, 1) for before, after in pairwise(counts.tolist()))


def test_clusters_are_ten_errors_wide():
    state = torch.tensor([[0.0], [0.9], [1.1], [2.0]], dtype=F64)
    counts, cluster = distinct(FixedPoints(state, torch.full((4,), 0.1, dtype=F64), torch.ones(4, dtype=torch.bool)))
    assert counts.tolist() == [1, 1, 2, 2]
    assert cluster.tolist() == [0, 0, 1, 1]
    # Far from the origin a distance taken through inner products would lose this difference.
    far = torch.tensor([[1000.0], [1000.001]])
    counts, _ = distinct(FixedPoints(far, torch.full((2,), 5e-5), torch.ones(2, dtype=torch.bool)))
    assert counts.tolist() == [1, 2]


class TestVarianceShare:
    def test_unbiased_in_both_parts(self):
        between, within, starts, inputs = 2.0, 3.0, 4, 30
        found = []
        for seed in range(60):
            centers = math.sqrt(between / 5) * drawn(inputs, 5, seed=seed)
            points = centers + math.sqrt(within / 5) * drawn(starts, inputs, 5, seed=1000 + seed)
            arrived = torch.ones(starts, inputs, dtype=torch.bool)
            found.append(share_of_variance(points, arrived, torch.zeros(starts, inputs, dtype=F64)))
        mean_between = sum(share.between for share in found) / len(found)
        mean_within = sum(share.within for share in found) / len(found)
        assert mean_between == pytest.approx(between, rel=0.06)
        assert mean_within == pytest.approx(within, rel=0.05)
        spread = torch.tensor([share.share for share in found]).std()
        jackknife = sum(share.error for share in found) / len(found)
        assert jackknife == pytest.approx(float(spread), rel=0.3)

    def test_jackknife_against_leaving_inputs_out(self):
        points, arrived = drawn(5, 6, 3) + drawn(6, 3, seed=1), drawn(5, 6, seed=2) > -2
        arrived[4] = drawn(6, seed=3) > 0
        error = torch.zeros(5, 6, dtype=F64)
        whole = share_of_variance(points, arrived, error)
        parts = []
        for row in range(6):
            keep = torch.arange(6) != row
            parts.append(share_of_variance(points[:, keep], arrived[:, keep], error[:, keep]).share)
        parts = torch.tensor(parts, dtype=F64)
        used = (arrived.sum(0) >= 4).all()
        assert used
        assert whole.error == pytest.approx(float((5 / 6 * (parts - parts.mean()).square().sum()).sqrt()))

    def test_what_has_not_arrived_does_not_count(self):
        points = drawn(4, 3, 2)
        arrived = torch.ones(4, 3, dtype=torch.bool)
        arrived[0, 0] = False
        points[0, 0] = torch.inf
        error = torch.zeros(4, 3, dtype=F64)
        error[0, 0] = torch.inf
        found = share_of_variance(points, arrived, error)
        assert found.inputs == 2
        assert found.share == share_of_variance(points[:, 1:], arrived[:, 1:], error[:, 1:]).share
        assert math.isnan(found.error)
        assert found.arrived == pytest.approx(11 / 12)
        none = share_of_variance(points, torch.zeros_like(arrived), error)
        assert math.isnan(none.share)
        assert none.inputs == 0

    def test_one_shared_point_has_no_share(self):
        loop = loop_of(lambda z, e: torch.tanh(0.5 * z + 1))
        found = variance_share(loop, drawn(6, 3), drawn(6, 3), iterations=200)
        assert found.share == 0
        assert found.inputs == 6

    def test_start_alone_gives_a_share_of_zero_within_its_error(self):
        loop = loop_of(lambda z, e: z + torch.sin(2 * math.pi * z) / 10)
        found = variance_share(loop, drawn(40, 6), 5 * torch.ones(40, 6, dtype=F64), iterations=200, starts=6)
        assert found.share < 3 * max(found.error, 0.02)
        with pytest.raises(LoopscopeError, match="at least 4 starts"):
            variance_share(loop, drawn(4, 6), drawn(4, 6), iterations=5, starts=3)


class TestSensitivity:
    weight, into = 0.5 * drawn(4, 4, seed=5) / 2, drawn(3, 4, seed=6)

    def loop(self, encode=lambda x: x):
        return loop_of(
            lambda z, e: torch.tanh(z @ self.weight.to(z.dtype) + e @ self.into.to(z.dtype)),
            start=lambda e: torch.zeros(len(e), 4, dtype=e.dtype),
            encode=encode,
        )

    def closed_form(self, state):
        """(I - D W^T)^{-1} D U^T with D = diag(1 - z^2)."""
        slope = torch.diag_embed(1 - state.square())
        return torch.linalg.solve(torch.eye(4, dtype=F64) - slope @ self.weight.T, slope @ self.into.T)

    def test_it_is_that_of_a_random_direction_and_not_the_largest(self):
        """As the guide says; the largest ratio is the Lipschitz constant."""
        loop, inputs = self.loop(), drawn(8, 3)
        path = trace(loop, inputs, iterations=300)
        largest = torch.linalg.svdvals(self.closed_form(path.state))[:, 0]
        gains = torch.stack([input_sensitivity(loop, inputs, path, seed=seed).gain[0] for seed in range(5)])
        assert (gains <= largest * (1 + 1e-6)).all()
        assert (gains.std(0) > 0.01 * largest).all()
        guide = (Path(__file__).parents[2] / "docs" / "start" / "first-examination.md").read_text()
        assert "‖dz*‖ / ‖dx‖ along one random direction" in guide

    def test_against_the_closed_form_and_finite_changes(self):
        loop, inputs = self.loop(), drawn(8, 3)
        path = trace(loop, inputs, iterations=300)
        found = input_sensitivity(loop, inputs, path, directions=3, tolerance=1e-10)
        assert found.path == "recalled input"
        expected = torch.einsum("bnm,dbm->dbn", self.closed_form(path.state), found.direction)
        torch.testing.assert_close(found.response, expected)
        torch.testing.assert_close(found.gain, expected.norm(dim=2))
        torch.testing.assert_close(found.relative, found.gain * inputs.norm(dim=1) / path.state.norm(dim=1))
        torch.testing.assert_close(found.direction.norm(dim=2), torch.ones(3, 8, dtype=F64))
        assert found.converged.all()
        assert found.at_fixed_point.all()
        change = finite_input_change(loop, inputs, path, found, iterations=300, step=1e-4)
        assert change.arrived.all()
        assert (change.disagreement < 1e-6).all()
        assert (change.resolution < 1e-6).all()
        assert ((change.gain - found.gain[0]).abs() <= 1e-6 * found.gain[0] + change.resolution).all()

    def test_through_encode(self):
        loop = self.loop(encode=lambda x: 3 * x.square())
        inputs = drawn(5, 3).abs() / 2
        recalled = loop.encode(inputs)
        path = trace(loop, recalled, iterations=300)
        found = input_sensitivity(loop, recalled, path, inputs=inputs, tolerance=1e-10)
        assert "encode" in found.path
        chain = self.closed_form(path.state) @ torch.diag_embed(6 * inputs)
        torch.testing.assert_close(found.response[0], torch.einsum("bnm,bm->bn", chain, found.direction[0]))
        change = finite_input_change(loop, recalled, path, found, inputs=inputs, iterations=300, step=1e-4)
        assert (change.disagreement < 1e-6).all()

    def test_single_precision_says_how_far_it_sees(self):
        loop, inputs = self.loop(), drawn(8, 3, dtype=torch.float32)
        path = trace(loop, inputs, iterations=300)
        found = input_sensitivity(loop, inputs, path)
        change = finite_input_change(loop, inputs, path, found, iterations=300)
        assert (change.disagreement < 1e-2).all()
        assert ((change.gain - found.gain[0]).abs() <= change.resolution).all()
        start = start_sensitivity(loop, inputs, path.state, iterations=300)
        assert (start.gain <= start.resolution).all()
        assert torch.isnan(start.disagreement).all()

    def test_the_start_matters_where_the_fixed_point_is_not_isolated(self):
        loop = loop_of(lambda z, e: torch.cat([z[:, :1], 0.5 * z[:, 1:] + 1], 1))
        e = drawn(6, 3)
        found = start_sensitivity(loop, e, e, iterations=100)
        assert found.arrived.all()
        generator = torch.Generator().manual_seed(0)
        direction = torch.nn.functional.normalize(torch.randn(6, 3, generator=generator, dtype=F64), dim=1)
        torch.testing.assert_close(found.gain, direction[:, 0].abs(), rtol=1e-6, atol=1e-9)

    def test_a_budget_that_is_too_short_is_labelled(self):
        loop, inputs = self.loop(), drawn(8, 3)
        path = trace(loop, inputs, iterations=2)
        found = input_sensitivity(loop, inputs, path)
        assert not found.at_fixed_point.any()
        assert not finite_input_change(loop, inputs, path, found, iterations=2).arrived.any()

    def test_held_sizes_are_no_input(self):
        loop, inputs = self.loop(), drawn(2, 3)
        state = trace(loop, inputs, iterations=50).state
        wrapped, problem = normalized(loop, inputs, state)
        path = trace(wrapped, wrapped.encode(problem), iterations=100, start=state)
        found = input_sensitivity(wrapped, wrapped.encode(problem), path, inputs=problem, tolerance=1e-10)
        assert found.direction.shape == (1, 2, 3)
        change = finite_input_change(
            wrapped, wrapped.encode(problem), path, found, inputs=problem, iterations=200, step=1e-5
        )
        assert (change.disagreement < 1e-5).all()
        # The norm is held: the response is orthogonal to the state.
        inner = (found.response[0] * path.state).sum(1)
        assert (inner.abs() < 1e-8 * found.gain[0]).all()


def test_the_global_random_state_is_not_touched():
    loop, inputs = loop_of(lambda z, e: torch.tanh(0.5 * z + e)), drawn(5, 2)
    path = trace(loop, inputs, iterations=50)
    before = torch.get_rng_state()
    shares = [variance_share(loop, inputs, inputs, iterations=50, seed=seed) for seed in (0, 0)]
    gains = [input_sensitivity(loop, inputs, path, seed=seed).gain for seed in (0, 0, 1)]
    start_sensitivity(loop, inputs, inputs, iterations=50)
    assert torch.equal(torch.get_rng_state(), before)
    assert shares[0] == shares[1]
    assert torch.equal(gains[0], gains[1])
    assert not torch.equal(gains[0], gains[2])


def test_no_orbit_is_followed_beyond_its_budget():
    calls = []

    def step(z, e):
        calls.append(len(z))
        return 0.99 * z + e

    loop, inputs = loop_of(step), drawn(6, 2)

    def spent(run):
        calls.clear()
        run()
        return calls.copy()

    path = trace(loop, inputs, iterations=7)
    assert not path.arrived.any()
    assert spent(lambda: swap_test(loop, inputs, path, iterations=7)) == [6] * 14
    assert spent(lambda: distinct_fixed_points(loop, inputs, path, inputs, iterations=7)) == [6] * 7
    assert spent(lambda: variance_share(loop, inputs, inputs, iterations=7)) == [6] * 28
    assert spent(lambda: start_sensitivity(loop, inputs, inputs, iterations=7)) == [12] * 7


@pytest.mark.parametrize("recall", ["none", "internal"])
def test_looped_transformers(recall):
    config = LoopedTransformerConfig(
        recall=recall, norm="outer", width=16, heads=2, inputs=3, outputs=2, grid=(5,), attention="full"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LoopedTransformer(config).double().eval()
    inputs = drawn(6, 5, 3)
    with torch.no_grad():
        recalled = model.encode(inputs)
    path = trace(model, recalled, iterations=2000, tolerance=1e-6)
    assert path.arrived.any()
    rows = torch.nonzero(path.arrived).squeeze(1)
    chosen, fixed, known = inputs[rows], path.take(rows), select(recalled, rows)
    found = input_sensitivity(model, known, fixed, inputs=chosen, tolerance=1e-8)
    assert "encode" in found.path
    assert (found.gain == 0).all() == (recall == "none")
    change = finite_input_change(model, known, fixed, found, inputs=chosen, iterations=2000, step=1e-4, tolerance=1e-6)
    assert (change.disagreement[change.arrived] < 1e-3).all()
    swaps = swap_test(model, known, fixed, iterations=2000, tolerance=1e-6)
    counted = {outcome for outcome in swaps.recall.outcomes if outcome is not SwapOutcome.UNKNOWN}
    assert counted
    assert counted <= (
        {SwapOutcome.STAYED, SwapOutcome.SHARED} if recall == "none" else {SwapOutcome.MOVED, SwapOutcome.ELSEWHERE}
    )


def test_partners_and_pairs_have_the_same_padding():
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 1], [1, 0], [1, 1]], dtype=torch.bool)
    recalled = torch.arange(12.0).view(6, 2)
    assert partners(recalled, mask, 1).tolist() == [2, 4, 5, 3, 1, 0]
    assert partners(recalled, mask, 2).tolist() == [5, 1, 0, 3, 4, 2]
    assert partners(recalled, None, 2).tolist() == [2, 3, 4, 5, 0, 1]
    assert in_pairs(torch.tensor([5, 3, 1, 0, 4, 2]), recalled, mask).tolist() == [5, 0, 1, 4, 3, 2]
    assert in_pairs(torch.tensor([4, 0, 3]), recalled, None).tolist() == [4, 0, 3]


def test_partners_recall_something_else():
    """Equal inputs are no pair; what pads them does not make them different."""
    twice = torch.tensor([[1.0, 9.0], [1.0, 8.0], [2.0, 9.0], [2.0, 7.0]])
    mask = torch.tensor([[True, False]] * 4)
    assert partners(twice, mask, 1).tolist() == [2, 2, 0, 0]
    assert partners(twice, None, 1).tolist() == [1, 2, 3, 0]
    assert in_pairs(torch.arange(4), twice, mask).tolist() == [0, 2, 1, 3]
    rounded = twice[:, :1] * (1 + 1e-7 * torch.arange(4.0)[:, None])
    assert partners(rounded, None, 1).tolist() == [2, 2, 0, 0]
    ids = {"ids": torch.tensor([[100000, 5], [100001, 5]]), "bias": torch.tensor([[0.0, -1e9], [0.0, -1e9]])}
    assert partners(ids, None, 1).tolist() == [1, 0]
    slight = {"x": torch.tensor([[1.0], [2.0]]), "bias": torch.tensor([[0.0, -torch.inf]] * 2)}
    assert partners(slight, None, 1).tolist() == [1, 0]
    assert partners(torch.ones(3, 2), None, 1).tolist() == [0, 1, 2]


def test_inputs_given_twice_are_examined_as_given_once():
    once = torch.randn(6, 2, generator=torch.Generator().manual_seed(4))
    turn = torch.tensor([[0.5, 0.2], [-0.2, 0.4]])
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z @ turn.T + e, lambda z: z)
    exam = ls.examine(loop, once.repeat_interleave(2, 0), effort="quick", iterations=120)
    assert exam.input_dependence.swaps.recall["moved"] == 8
    assert exam.verdict is ls.Verdict.STABLE
    alike = ls.examine(loop, once[:1].expand(4, 2), effort="quick", iterations=120)
    assert alike.verdict is ls.Verdict.UNDECIDED
    assert "4 of 4 inputs recall the same" in alike.unknown["swaps"]


def test_why_an_input_has_no_partner_is_told_apart():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    recalled = torch.arange(9.0).view(3, 3)
    assert "padding unlike that of all others" in why_alone(partners(recalled, mask, 1), recalled, mask)
    assert why_alone(partners(recalled, None, 1), recalled, None) is None
    same = torch.ones(4, 2)
    assert why_alone(partners(same, None, 1), same, None).startswith("4 of 4 inputs recall the same as all others")
