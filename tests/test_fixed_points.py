"""Solvers against fixed points in closed form, textbook iterations, and the same examples solved alone."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.fixed_points import Truncated, fixed_point
from loopscope.fixed_points.plain import compare_with_plain
from loopscope.fixed_points.reaching import IDLE
from loopscope.fixed_points.secants import AndersonMemory, combine, dots, move_up
from loopscope.loop import FunctionLoop, iterate
from loopscope.trees import select

F64 = torch.float64
SOLVERS = {
    "plain": ls.PlainIteration(),
    "damped": ls.DampedIteration(0.7),
    "anderson": ls.Anderson(),
    "anderson-1": ls.Anderson(memory=1),
    "broyden": ls.Broyden(),
    "broyden-3": ls.Broyden(memory=3),
}
ACCELERATED = {name: solver for name, solver in SOLVERS.items() if name != "plain"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def from_zero(step, **others) -> FunctionLoop:
    return FunctionLoop(
        encode=lambda x: x, start=lambda e: torch.zeros_like(e["u"]), step=step, read=lambda z: z, **others
    )


def matrix_of(size, seed=0, dtype=F64):
    """A non-normal matrix of spectral radius one, complex pairs included."""
    matrix = torch.randn(size, size, generator=generator(seed), dtype=F64)
    return (matrix / torch.linalg.eigvals(matrix).abs().max()).to(dtype)


def affine(size=12, batch=6, dtype=F64, rates=(0.2, 0.95)):
    """z <- q W z + u, with its own q for each example: (loop, inputs, fixed points)."""
    matrix = matrix_of(size, dtype=dtype)
    inputs = {
        "q": torch.linspace(*rates, batch, dtype=dtype),
        "u": torch.randn(batch, size, generator=generator(1), dtype=F64).to(dtype),
    }
    exact = torch.linalg.solve(
        torch.eye(size, dtype=F64) - inputs["q"].double()[:, None, None] * matrix, inputs["u"].double()
    )
    return from_zero(lambda z, e: e["q"][:, None] * (z @ matrix.T) + e["u"]), inputs, exact


def tanh(size=12, batch=6, dtype=F64):
    """z <- tanh(q W z + u); the fixed points by Newton's method."""
    matrix = matrix_of(size, dtype=dtype)
    _, inputs, _ = affine(size, batch, dtype, rates=(0.2, 0.9))
    exact = torch.zeros(batch, size, dtype=F64)
    for row in range(batch):
        scaled, shift, z = inputs["q"][row].double() * matrix.double(), inputs["u"][row].double(), exact[row]
        for _ in range(50):
            value = torch.tanh(scaled @ z + shift)
            slope = (1 - value**2)[:, None] * scaled
            z = z + torch.linalg.solve(torch.eye(size, dtype=F64) - slope, value - z)
        exact[row] = z
    return from_zero(lambda z, e: torch.tanh(e["q"][:, None] * (z @ matrix.T) + e["u"])), inputs, exact


def cosine(dtype=F64):
    inputs = {"u": torch.linspace(-1, 2, 4, dtype=dtype)[:, None]}
    loop = FunctionLoop(encode=lambda x: x, start=lambda e: e["u"], step=lambda z, e: torch.cos(z), read=lambda z: z)
    return loop, inputs, torch.full((4, 1), 0.7390851332151607, dtype=F64)


PROBLEMS = {"affine": affine, "tanh": tanh, "cosine": cosine}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_known_fixed_points(solver, problem):
    loop, inputs, exact = PROBLEMS[problem]()
    found = ls.solve(loop, inputs, solver=SOLVERS[solver], tolerance=1e-11, plain_iterations=2000)
    assert found.arrived.all(), str(found)
    torch.testing.assert_close(found.state, exact, rtol=0, atol=1e-8)
    assert found.same_as_plain == (True,) * len(exact)
    step = loop.step(found.state, inputs)
    scale = torch.maximum(found.state.norm(dim=1), step.norm(dim=1))
    torch.testing.assert_close(found.residual, (step - found.state).norm(dim=1) / scale)
    assert (found.residual <= 1e-11).all()


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision(solver, problem):
    loop, inputs, exact = PROBLEMS[problem](dtype=torch.float32)
    found = ls.solve(loop, inputs, solver=SOLVERS[solver], tolerance=1e-6, max_iterations=1000)
    assert found.arrived.all(), str(found)
    assert found.state.dtype == torch.float32
    torch.testing.assert_close(found.state.double(), exact, rtol=0, atol=3e-4)


@given(
    size=st.integers(1, 12),
    rate=st.floats(0.0, 0.9),
    name=st.sampled_from(sorted(SOLVERS)),
    seed=st.integers(0, 10**6),
    curved=st.booleans(),
)
@settings(max_examples=60)
def test_any_contraction_is_solved(size, rate, name, seed, curved):
    draw = torch.randn(size + 3, size, generator=generator(seed), dtype=F64)
    matrix, shift = draw[:size], draw[size:]
    matrix = rate * matrix / torch.linalg.matrix_norm(matrix, 2)
    bend = torch.sin if curved else lambda x: x
    loop = from_zero(lambda z, e: bend(z @ matrix.T) + e["u"])
    found = ls.solve(loop, {"u": shift}, solver=SOLVERS[name], tolerance=1e-9, max_iterations=600)
    assert found.arrived.all(), str(found)
    # A contraction by q: the distance to its only fixed point is at most the residual over 1 - q.
    exact = iterate(loop, found.state, {"u": shift}, 400)
    size_of = torch.maximum(found.state.norm(dim=1), loop.step(found.state, {"u": shift}).norm(dim=1))
    assert ((found.state - exact).norm(dim=1) <= found.residual * size_of / (1 - rate) * (1 + 1e-6) + 1e-14).all()


def test_iterations_count_the_evaluation_that_proves_arrival():
    loop, inputs, _ = affine()
    found = ls.solve(loop, inputs, tolerance=1e-6)
    state, wanted = torch.zeros_like(inputs["u"]), torch.zeros(6, dtype=torch.long)
    for count in range(1, 501):
        after = loop.step(state, inputs)
        residual = (after - state).norm(dim=1) / torch.maximum(after.norm(dim=1), state.norm(dim=1))
        wanted = torch.where((residual <= 1e-6) & (wanted == 0), count, wanted)
        state = after
    assert found.iterations.tolist() == wanted.tolist()
    warm = ls.solve(loop, inputs, tolerance=1e-6, start=found.state)
    assert warm.iterations.tolist() == [1] * 6
    torch.testing.assert_close(warm.state, found.state, rtol=0, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_example_as_if_it_were_alone(solver):
    loop, inputs, _ = tanh(batch=9)
    mixed = ls.solve(loop, inputs, solver=SOLVERS[solver], tolerance=1e-9, plain_iterations=400)
    for row in range(9):
        alone = ls.solve(
            loop, select(inputs, slice(row, row + 1)), solver=SOLVERS[solver], tolerance=1e-9, plain_iterations=400
        )
        assert alone.iterations.tolist() == mixed.iterations[row : row + 1].tolist()
        torch.testing.assert_close(alone.state[0], mixed.state[row], rtol=0, atol=1e-12)
        assert alone.same_as_plain[0] is mixed.same_as_plain[row]
    assert len(set(mixed.iterations.tolist())) > 4


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_computed_stay_near_the_steps_needed(solver):
    loop, inputs, _ = affine(batch=40, rates=(0.1, 0.97))
    evaluated = []

    def counting(z, e):
        evaluated.append(len(z))
        return loop.step(z, e)

    watched = from_zero(counting)
    found = ls.solve(watched, inputs, solver=SOLVERS[solver], tolerance=1e-8, max_iterations=2000)
    needed = int(found.iterations.sum())
    # The first two are of one example, and tell whether the step is random; the next three, whether it mixes examples.
    assert (evaluated[:5], found.steps_computed) == ([1, 1, 2, 2, 1], sum(evaluated[5:]))
    assert needed <= found.steps_computed <= IDLE * needed
    assert found.plain_steps == 0
    # Whole-batch stopping would have cost more.
    assert 40 * int(found.iterations.max()) > 1.2 * found.steps_computed
    evaluated.clear()
    checked = ls.solve(
        watched, inputs, solver=SOLVERS[solver], tolerance=1e-8, max_iterations=2000, plain_iterations=2000
    )
    assert checked.steps_computed + checked.plain_steps == sum(evaluated[5:])
    assert (checked.plain_steps > 0) == (solver != "plain")


def test_a_cycle_does_not_arrive_and_damping_ends_it():
    loop = FunctionLoop(encode=lambda x: x, start=lambda e: e + 1, step=lambda z, e: 2 * e - z, read=lambda z: z)
    inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    plain = ls.solve(loop, inputs, max_iterations=40)
    assert not plain.arrived.any()
    assert plain.iterations.tolist() == [40, 40]
    assert plain.same_as_plain == (None, None)
    assert "2 did not within 40 iterations" in plain.message
    damped = ls.solve(loop, inputs, solver=ls.DampedIteration(0.5), plain_iterations=40)
    torch.testing.assert_close(damped.state, inputs)
    # Plain iteration never gets anywhere: nothing can be said.
    assert damped.same_as_plain == (None, None)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_stops_being_finite_leaves_and_the_rest_goes_on(solver):
    def step(z, e):
        return torch.where(e > 1, torch.exp(z * z), torch.where(e > 0, 0.5 * z + e, (z - 1).sqrt()))

    loop = FunctionLoop(encode=lambda x: x, start=torch.clone, step=step, read=lambda z: z)
    inputs = torch.tensor([[0.5], [3.0], [-1.0], [0.25]])
    found = ls.solve(loop, inputs, solver=SOLVERS[solver], tolerance=1e-6)
    assert found.diverged.tolist() == [False, True, True, False]
    assert found.arrived.tolist() == [True, False, False, True]
    torch.testing.assert_close(found.state[[0, 3]], torch.tensor([[1.0], [0.5]]))
    assert found.state.isfinite().all()
    assert found.iterations[1] < 8
    assert found.iterations[2] == 1
    assert "2 diverged" in found.message
    assert found.output is not None
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["residual"][1] is None


@pytest.mark.parametrize("solver", SOLVERS)
def test_padding_is_left_out(solver):
    matrix = matrix_of(3)

    def step(z, e):
        inside = 0.8 * z @ matrix.T + e["u"]
        # Padding grows forever; were it looked at, nothing would arrive.
        return torch.where(e["real"][..., None], inside, 1.5 * z + 1)

    loop = from_zero(step, padding=lambda e: e["real"])
    u = torch.randn(4, 5, 3, generator=generator(), dtype=F64)
    lengths = torch.tensor([5, 4, 2, 1])
    inputs = {"u": u, "real": torch.arange(5) < lengths[:, None]}
    found = ls.solve(loop, inputs, solver=SOLVERS[solver], tolerance=1e-9)
    exact = torch.linalg.solve(torch.eye(3, dtype=F64) - 0.8 * matrix, u.mT).mT
    assert found.arrived.all()
    real = inputs["real"]
    torch.testing.assert_close(found.state[real], exact[real], rtol=0, atol=1e-7)
    for row, length in enumerate(lengths.tolist()):
        alone = {"u": u[row : row + 1, :length], "real": torch.ones(1, length, dtype=torch.bool)}
        found_alone = ls.solve(loop, alone, solver=SOLVERS[solver], tolerance=1e-9)
        assert found_alone.iterations[0] == found.iterations[row]
        torch.testing.assert_close(found_alone.state[0], found.state[row, :length], rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_states_that_are_trees(solver):
    def step(z, e):
        mean = z["b"].mean((1, 2))
        return {"a": 0.5 * z["a"] + 0.3 * mean[:, None] + e, "b": 0.9 * z["b"] - 0.2 * z["a"][:, :2, None]}

    loop = FunctionLoop(
        encode=lambda x: x,
        start=lambda e: {"a": torch.zeros_like(e), "b": e.new_ones(len(e), 2, 3)},
        step=step,
        read=lambda z: z["a"],
    )
    inputs = torch.randn(5, 4, generator=generator(), dtype=F64)
    found = ls.solve(loop, inputs, solver=SOLVERS[solver], tolerance=1e-11, max_iterations=3000)
    # By hand: b_ij = -2 a_i, and its mean is -(a_0 + a_1), so 0.5 a = -0.3 (a_0 + a_1) + u.
    total = (inputs[:, 0] + inputs[:, 1]) / (0.5 + 0.6)
    a = 2 * (inputs - 0.3 * total[:, None])
    torch.testing.assert_close(found.state["a"], a, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.state["b"], (-2 * a[:, :2, None]).expand(5, 2, 3), rtol=0, atol=1e-8)
    assert found.output is found.state["a"]


def test_counters_pass_through_plain_iteration_alone():
    loop = FunctionLoop(
        encode=lambda x: x,
        start=lambda e: {"z": torch.zeros_like(e), "t": torch.zeros(len(e), dtype=torch.long)},
        step=lambda z, e: {"z": 0.5 * z["z"] + e, "t": z["t"] + 1},
        read=lambda z: z["z"],
    )
    inputs = torch.tensor([[1.0], [-3.0]])
    found = ls.solve(loop, inputs)
    torch.testing.assert_close(found.output, 2 * inputs, rtol=1e-3, atol=0)
    assert (found.state["t"] == found.iterations - 1).all()
    for solver in ACCELERATED.values():
        with pytest.raises(LoopscopeError, match="counter"):
            ls.solve(loop, inputs, solver=solver)


SINES = FunctionLoop(encode=lambda x: x, start=torch.clone, step=lambda z, e: z + 0.5 * torch.sin(z), read=lambda z: z)


@pytest.mark.parametrize("solver", [ls.Anderson(), ls.Anderson(memory=2), ls.Broyden(), ls.DampedIteration(0.5)])
def test_another_fixed_point_than_plain_iterations_is_noticed(solver):
    # Multiples of pi are fixed: the odd ones attract, the even ones repel.
    starts = torch.linspace(-9, 9, 181, dtype=F64)[:, None] + 0.003
    truth = iterate(SINES, starts, starts, 3000)
    found = ls.solve(SINES, starts, solver=solver, tolerance=1e-9, plain_iterations=500)
    assert found.arrived.all()
    same = [bool(here) for here in ((found.state - truth).abs() < 1e-6)]
    assert list(found.same_as_plain) == same
    if isinstance(solver, ls.DampedIteration):
        assert all(same)
    else:
        assert 20 < sum(same) < 170
        assert f"{181 - sum(same)} arrived at another fixed point" in found.message
        # Unasked, nothing is claimed.
        unasked = ls.solve(SINES, starts, solver=solver, tolerance=1e-9)
        assert unasked.same_as_plain == (None,) * 181


def test_a_repelling_answer_near_the_attracting_one_is_noticed():
    # Fixed points: 1, with slope 1 + sqrt(gap) / 2, and 1 - gap, with slope 1 - sqrt(gap) / 2.
    gap = torch.tensor([[1e-3], [1e-2], [0.1], [0.5]], dtype=F64)
    loop = FunctionLoop(
        encode=lambda x: x,
        start=lambda e: 1 - 0.6 * e,
        step=lambda z, e: z + 0.5 * (z - 1) * (z - 1 + e) / e.sqrt(),
        read=lambda z: z,
    )
    start = 1 - 0.6 * gap
    attracting = iterate(loop, start, gap, 20000)
    torch.testing.assert_close(attracting, 1 - gap)
    everywhere = torch.ones(4, dtype=torch.bool)
    for answer, expected in ((attracting, True), (torch.ones_like(gap) - 1e-13, False)):
        same, spent = compare_with_plain(loop, gap, start, answer, everywhere, tolerance=1e-10, budget=20000)
        assert same == (expected,) * 4
        assert spent > 0


def test_slow_contractions_are_told_from_two_points():
    # q = 0.99: at arrival both are off by up to 100 tolerances, yet it is one fixed point.
    loop = from_zero(lambda z, e: e["q"] * z + e["u"])
    inputs = {"u": torch.tensor([[1.0], [-2.0]], dtype=F64), "q": torch.tensor([[0.99], [0.9]], dtype=F64)}
    found = ls.solve(
        loop, inputs, solver=ls.DampedIteration(0.3), tolerance=1e-4, max_iterations=5000, plain_iterations=5000
    )
    assert found.same_as_plain == (True, True)
    short = ls.solve(
        loop, inputs, solver=ls.DampedIteration(0.3), tolerance=1e-4, max_iterations=5000, plain_iterations=150
    )
    assert short.same_as_plain[0] is None


def textbook_broyden(function, z, count):
    """Broyden's first method with a dense Jacobian of f(z) - z that begins at -I."""
    jacobian, residual, states = -torch.eye(len(z), dtype=F64), function(z) - z, [z]
    for _ in range(count):
        step = torch.linalg.solve(jacobian, -residual)
        z = z + step
        new = function(z) - z
        jacobian = jacobian + torch.outer(new - residual - jacobian @ step, step) / (step @ step)
        residual = new
        states.append(z)
    return states


def textbook_anderson(function, z, count, memory):
    """Anderson's method by a least-squares solve over the weights of the last values."""
    states, values = [z], [function(z)]
    for _ in range(count):
        kept = slice(max(0, len(states) - memory - 1), None)
        residuals = torch.stack([value - state for value, state in zip(values[kept], states[kept], strict=True)])
        differences = residuals[1:] - residuals[:-1]
        weights = torch.zeros(len(residuals), dtype=F64)
        weights[-1] = 1
        if len(differences):
            gamma = torch.linalg.lstsq(differences.T, residuals[-1]).solution
            weights[1:] -= gamma
            weights[:-1] += gamma
        states.append(weights @ torch.stack(values[kept]))
        values.append(function(states[-1]))
    return states


@pytest.mark.parametrize("memory", [1, 3, 20])
def test_the_textbook_methods(memory):
    loop, inputs, _ = tanh(batch=3)
    for count in range(1, 9):
        broyden = ls.solve(loop, inputs, solver=ls.Broyden(20), tolerance=1e-14, max_iterations=count + 1)
        anderson = ls.solve(loop, inputs, solver=ls.Anderson(memory, 1e-15), tolerance=1e-14, max_iterations=count + 1)
        for row in range(3):
            one = select(inputs, slice(row, row + 1))

            def function(z, one=one):
                return loop.step(z[None], one)[0]

            start = torch.zeros(12, dtype=F64)
            torch.testing.assert_close(broyden.state[row], textbook_broyden(function, start, count)[-1])
            expected = textbook_anderson(function, start, count, memory)[-1]
            torch.testing.assert_close(anderson.state[row], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", [ls.Anderson(memory=12, regularization=1e-14), ls.Broyden(memory=30)])
def test_affine_loops_end_in_finitely_many_evaluations(solver):
    # Even where plain iteration does not converge: Anderson is GMRES (n evaluations), Broyden takes at most 2 n.
    loop, inputs, exact = affine(size=12, batch=4, rates=(0.5, 1.0))
    found = ls.solve(loop, inputs, solver=solver, tolerance=1e-9, max_iterations=30, plain_iterations=50)
    assert found.arrived.all(), str(found)
    torch.testing.assert_close(found.state, exact, rtol=0, atol=1e-6)
    assert (found.iterations <= (16 if isinstance(solver, ls.Anderson) else 28)).all()
    assert found.same_as_plain[3] is None


def test_fewer_evaluations_where_plain_iteration_is_slow():
    loop, inputs, _ = affine(size=30, batch=8, rates=(0.98, 0.99))
    counts = {
        name: ls.solve(loop, inputs, solver=solver, tolerance=1e-8, max_iterations=5000).iterations
        for name, solver in SOLVERS.items()
    }
    assert (4 * counts["anderson"] < counts["plain"]).all()
    assert (4 * counts["broyden"] < counts["plain"]).all()


def test_an_example_that_is_misled_starts_over_from_its_best_state():
    memory = AndersonMemory(torch.zeros(2, 3, dtype=F64), 4, 1e-8)
    points = torch.randn(3, 2, 3, generator=generator(), dtype=F64)
    values = points + torch.tensor([[1.0, 1.0], [0.5, 0.4], [50.0, 0.3]], dtype=F64)[..., None]
    assert memory.correction(points[0], values[0]) is None
    memory.correction(points[1], values[1])
    next_points = values[2] + memory.correction(points[2], values[2])
    torch.testing.assert_close(next_points[0], values[1, 0])
    assert memory.used.sum(1).tolist() == [0, 2]
    # From there it begins anew, with a plain step; the jump back taught nothing.
    after = next_points + 0.2
    assert not memory.correction(next_points, after)[0].any()


def test_long_and_short_vectors_are_multiplied_alike():
    for size in (7, 3000):
        basis = torch.randn(3, 4, size, generator=generator(), dtype=F64)
        vectors, weights = basis[:, 0] + 1, basis[:, :, 0]
        torch.testing.assert_close(dots(basis, vectors), torch.einsum("bmn,bn->bm", basis, vectors))
        torch.testing.assert_close(combine(weights, basis), torch.einsum("bm,bmn->bn", weights, basis))
        kept = torch.tensor([0, 2])
        expected = basis[kept].clone()
        assert torch.equal(move_up(basis, kept), expected)


def test_a_looped_transformer():
    config = ls.LoopedTransformerConfig(
        recall="internal", norm="outer", width=16, heads=2, inputs=4, outputs=3, grid=(3, 3), attention="full"
    )
    torch.manual_seed(0)
    model = ls.LoopedTransformer(config).train()
    digits = torch.randint(0, 4, (6, 9), generator=generator())
    inputs = torch.nn.functional.one_hot(digits, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = {name: ls.solve(model, inputs, solver=solver, tolerance=1e-5) for name, solver in SOLVERS.items()}
    assert model.training
    for name, solution in found.items():
        assert solution.arrived.all(), f"{name}: {solution}"
        assert not solution.state.requires_grad
        assert solution.output.shape == (6, 9, 3)
        assert solution.output.dtype == torch.float32
        torch.testing.assert_close(solution.state, found["plain"].state, rtol=0, atol=1e-3)


def test_random_starts_are_drawn_from_the_seed():
    loop = FunctionLoop(
        encode=lambda x: x,
        start=lambda e, generator: torch.randn(e.shape, generator=generator),
        step=lambda z, e: 0.5 * z + e,
        read=lambda z: z,
    )
    inputs = torch.ones(2, 3)
    first, again, other = (ls.solve(loop, inputs, seed=seed, max_iterations=1).state for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bad_input_is_refused_in_one_line():
    loop, inputs, _ = affine()
    cases = {
        "tolerance below 1": {"tolerance": 0.0},
        "the rounding of the state": {"tolerance": 1e-17},
        "max_iterations is 0": {"max_iterations": 0},
        "plain_iterations is -1": {"plain_iterations": -1},
        "got 5 states for 6 inputs": {"start": torch.zeros(5, 12, dtype=F64)},
    }
    for message, options in cases.items():
        with pytest.raises(LoopscopeError, match=message) as caught:
            ls.solve(loop, inputs, **options)
        assert "\n" not in str(caught.value)
    half = from_zero(lambda z, e: z)
    with pytest.raises(LoopscopeError, match="bfloat16"):
        ls.solve(half, {"u": torch.ones(1, 2, dtype=torch.bfloat16)})
    grows = from_zero(lambda z, e: torch.cat([z, z], 1))
    with pytest.raises(LoopscopeError, match="same structure"):
        ls.solve(grows, inputs)
    noisy = from_zero(lambda z, e: torch.randn_like(z))
    with pytest.raises(LoopscopeError, match="random"):
        ls.solve(noisy, inputs, max_iterations=3)
    shivering = from_zero(lambda z, e: loop.step(z, e) + 1e-7 * torch.randn_like(z))
    with pytest.raises(LoopscopeError, match="random"):
        ls.solve(shivering, inputs, tolerance=1e-3)
    for bad in (lambda: ls.DampedIteration(0.0), lambda: ls.DampedIteration(1.5)):
        with pytest.raises(LoopscopeError, match="damping"):
            bad()
    for bad in (lambda: ls.Anderson(0), lambda: ls.Broyden(0), lambda: ls.Anderson(regularization=0.0)):
        with pytest.raises(LoopscopeError, match="above 0"):
            bad()


def test_the_message_sums_up():
    loop, inputs, _ = affine()
    found = ls.solve(loop, inputs, tolerance=1e-4)
    counts = sorted(found.iterations.tolist())
    assert f"6 of 6 examples arrived (relative residual <= 0.0001) after {counts[0]} to {counts[-1]}" in str(found)
    assert math.isclose(found.tolerance, 1e-4)


def foreign(step, start=torch.zeros_like):
    return ls.FunctionLoop(encode=torch.clone, start=start, step=step, read=torch.clone)


def test_a_step_that_mixes_examples_is_refused():
    """Those that arrive leave, and the others would go elsewhere without them."""
    with pytest.raises(LoopscopeError, match="the step mixes examples"):
        ls.solve(foreign(lambda z, e: 0.5 * z.mean(0, keepdim=True) + e), torch.randn(8, 4))


@pytest.mark.parametrize("solver", ["broyden", ls.Broyden])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_solver_is_refused(solver):
    loop, inputs, _ = affine()
    with pytest.raises(LoopscopeError, match=r"expected a solver such as .*: make one of its class"):
        ls.solve(loop, inputs, solver=solver)


@pytest.mark.parametrize(
    ("loop", "inputs", "message"),
    [
        (foreign(lambda z, e: (0.5 * z + e).double()), torch.ones(3, 4), "the same precision"),
        (foreign(lambda z, e: 0.5 * z + e), [[1.0, 2.0]], "convert with torch.as_tensor"),
        (foreign(lambda z, e: 0.5 * z + e, lambda e: torch.zeros(1, 4)), torch.ones(3, 4), "got 1 states for 3 inputs"),
    ],
)
def test_a_fixed_point_for_training_is_refused_in_one_line_too(loop, inputs, message):
    with pytest.raises(LoopscopeError, match=message):
        fixed_point(loop, inputs, gradient=Truncated(1))
