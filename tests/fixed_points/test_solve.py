"""Solving against fixed points in closed form, and against the same examples solved alone."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_fixed_points import (
    ACCELERATED,
    F64,
    PROBLEMS,
    SOLVERS,
    affine,
    from_zero,
    generator,
    matrix_of,
    tanh,
)

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.fixed_points.halting import OVERHEAD
from loopscope.loop import FunctionLoop, iterate
from loopscope.trees import select


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
    # The first five try the step on two examples: twice at z_0, twice at z_1, and with one of them alone.
    assert (evaluated[:5], found.steps_computed) == ([2, 2, 2, 2, 1], sum(evaluated[5:]))
    assert needed <= found.steps_computed <= OVERHEAD * needed
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
    assert "2 did not arrive within 40 iterations" in plain.message
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
    assert json.loads(text)["last_residual"][1] is None
    assert json.loads(text)["residual"][2] is None


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
        "tolerance is 0, expected a number between 0 and 1": {"tolerance": 0.0},
        "tolerance is 1000, expected a number between 0 and 1": {"tolerance": 1000},
        "the rounding of the state": {"tolerance": 1e-17},
        "max_iterations is 0": {"max_iterations": 0},
        "plain_iterations is -1, expected a whole number of at least 0": {"plain_iterations": -1},
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
def test_what_is_not_a_solver_is_refused(solver):
    loop, inputs, _ = affine()
    with pytest.raises(LoopscopeError, match=r"expected a solver such as .*: pass an instance of a solver class"):
        ls.solve(loop, inputs, solver=solver)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1.5}, "seed is 1.5, expected a whole number"),
        ({"seed": None}, "seed is None, expected a whole number"),
        ({"seed": 2**64}, "seed is 18446744073709551616, expected a whole number"),
        ({"seed": True}, "seed is True, expected a whole number"),
        ({"tolerance": "x"}, "tolerance is 'x', expected a number between 0 and 1"),
        ({"tolerance": None}, "tolerance is None, expected a number between 0 and 1"),
        ({"tolerance": math.nan}, "tolerance is nan, expected a number between 0 and 1"),
        ({"max_iterations": True}, "max_iterations is True, expected a whole number above 0"),
        ({"max_iterations": 1.5}, "max_iterations is 1.5, expected a whole number above 0"),
        ({"plain_iterations": None}, "plain_iterations is None, expected a whole number of at least 0"),
    ],
)
def test_options_that_are_not_numbers_are_refused_in_one_line(options, message):
    loop, inputs, _ = affine()
    with pytest.raises(LoopscopeError, match=message) as caught:
        ls.solve(loop, inputs, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_batch_is_refused():
    loop, inputs, _ = affine()
    with pytest.raises(LoopscopeError, match=r"the batch is empty \(shapes \[\(0,\), \(0, 12\)\]\)"):
        ls.solve(loop, select(inputs, slice(0, 0)))


@pytest.mark.parametrize(
    ("read", "given"),
    [(lambda z: (z, z), "tuple"), (lambda z: z[:2], r"shape \(2, 12\)"), (lambda z: z[:, 0], r"shape \(6,\)")],
)
@pytest.mark.usefixtures("unchecked")
def test_a_readout_that_is_not_one_tensor_of_outputs_per_input_is_refused(read, given):
    loop, inputs, _ = affine()
    with pytest.raises(
        LoopscopeError, match=rf"read returned .*{given}, expected a tensor of shape \(6, \.\.\., outputs\)"
    ):
        ls.solve(FunctionLoop(encode=loop.encode, start=loop.start, step=loop.step, read=read), inputs)


def chaotic(size=32, batch=5):
    """z <- tanh(4 z W + u), which has no attracting fixed point."""
    matrix = 4 * torch.randn(size, size, generator=generator(), dtype=F64) / size**0.5
    return from_zero(lambda z, e: torch.tanh(z @ matrix + e["u"])), {
        "u": torch.randn(batch, size, generator=generator(1), dtype=F64)
    }


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_state_with_the_smallest_residual_is_returned(solver):
    loop, inputs = chaotic()
    visited = []

    def watching(z, e):
        after = loop.step(z, e)
        if len(z) == 5:
            size = torch.maximum(z.norm(dim=1), after.norm(dim=1))
            visited.append(((after - z).norm(dim=1) / size, z))
        return after

    found = ls.solve(from_zero(watching), inputs, solver=SOLVERS[solver], tolerance=1e-14, max_iterations=40)
    residuals, states = (torch.stack(part) for part in zip(*visited, strict=True))
    assert len(residuals) == 40
    smallest, place = residuals.min(0)
    torch.testing.assert_close(found.residual, smallest, rtol=1e-12, atol=0)
    assert found.best_iteration.tolist() == (place + 1).tolist()
    torch.testing.assert_close(found.state, states[place, torch.arange(5)], rtol=0, atol=0)
    torch.testing.assert_close(found.last_residual, residuals[-1], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.last_state, states[-1], rtol=0, atol=0)
    assert (found.residual < found.last_residual).sum() >= 4
    row = int(smallest.argmin())
    said = f"(smallest residual {float(smallest[row]):.1e}, at iteration {int(place[row]) + 1})"
    assert said in found.message
    assert found.to_dict()["best_iteration"] == (place + 1).tolist()


def test_of_an_example_that_arrived_the_best_state_is_the_last_one():
    loop, inputs, _ = affine()
    found = ls.solve(loop, inputs)
    assert torch.equal(found.state, found.last_state)
    assert torch.equal(found.residual, found.last_residual)
    assert torch.equal(found.best_iteration, found.iterations)


def test_of_an_example_that_diverged_the_best_finite_state_is_returned():
    loop = foreign(lambda z, e: z * z + e, start=lambda e: torch.full_like(e, 0.45))
    found = ls.solve(loop, torch.tensor([[0.3]]))  # slows down near 1/2, then runs away: z + 0.3 = z^2 has no solution
    assert found.diverged.all()
    assert 1 < int(found.best_iteration) < int(found.iterations) - 3
    torch.testing.assert_close(found.state, torch.tensor([[0.5]]), rtol=0, atol=0.1)
    assert found.last_residual.isinf().all()


def test_a_readout_that_is_not_finite_is_named_with_the_iteration():
    def read(z):
        logits = torch.where(z > 1.9, math.nan, z)
        return torch.cat([torch.full_like(z, -math.inf), logits], dim=1)

    loop = FunctionLoop(encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: 0.5 * z + e, read=read)
    found = ls.solve(loop, torch.tensor([[1.0], [0.5]]))
    assert found.arrived.all()
    # The option that is masked from the start is no fault.
    assert found.output_valid.tolist() == [False, True]
    assert f"The readout of 1 examples is NaN or infinite, at iteration {int(found.iterations[0])}." in found.message
    assert found.to_dict()["output_valid"] == [False, True]


@pytest.mark.parametrize(("infinity", "valid"), [(math.inf, False), (-math.inf, False), (1.0, True)])
def test_a_readout_that_becomes_infinite_is_named(infinity, valid):
    loop = FunctionLoop(
        encode=lambda x: x,
        start=torch.zeros_like,
        step=lambda z, e: 0.5 * z + e,
        read=lambda z: torch.where(z > 1.9, infinity, z),
    )
    found = ls.solve(loop, torch.tensor([[1.0]]))
    assert found.output_valid.tolist() == [valid]
    assert ("readout" in found.message) is not valid


def test_the_rounding_of_a_step_is_named_where_it_keeps_an_orbit_from_arriving():
    matrix = -0.68 * torch.linalg.qr(torch.randn(64, 64, generator=generator()))[0]

    def step(z, e):
        return (z.bfloat16() @ matrix.T.bfloat16()).float() + e["u"]

    inputs = {"u": torch.randn(4, 64, generator=generator(1))}
    found = ls.solve(from_zero(step), inputs)
    assert not found.arrived.any()
    assert found.noise_floor.precision == "bfloat16"
    assert "like that of bfloat16, in a state of float32" in found.message
    assert "raise the tolerance" in found.message
    assert found.to_dict()["noise_floor"]["precision"] == "bfloat16"
    coarse = ls.solve(from_zero(step), inputs, tolerance=found.noise_floor.residual)
    assert coarse.arrived.all()
    assert coarse.noise_floor is None


def test_float32_inside_a_float64_state_is_named_and_double_is_not_recommended():
    matrix = matrix_of(16, dtype=torch.float32)
    loop = from_zero(lambda z, e: torch.tanh(0.9 * z.float() @ matrix.T + e["u"].float()).double())
    inputs = {"u": torch.randn(3, 16, generator=generator(1), dtype=F64)}
    found = ls.solve(loop, inputs, tolerance=1e-12, max_iterations=200)
    assert (~found.arrived).any()
    assert "like that of float32, in a state of float64" in found.message
    assert ".double()" not in found.message


def test_a_loop_that_does_not_contract_is_not_blamed_on_rounding():
    loop, inputs = chaotic()
    found = ls.solve(loop, inputs, max_iterations=30)
    assert found.noise_floor.precision == "float64"
    assert "examine the loop" in found.message
    assert "rounding" not in found.message
