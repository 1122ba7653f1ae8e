"""Gradients of fixed points against closed forms and backpropagation through a converged loop, in float64."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import loopscope as ls
from loopscope.errors import LoopscopeError, LoopscopeWarning
from loopscope.fixed_points import Implicit, Phantom, Truncated, fixed_point
from loopscope.gmres import LinearSolution
from loopscope.loop import FunctionLoop, iterate
from loopscope.trees import leaves

F64 = torch.float64
EXACT = Implicit(tolerance=1e-11)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Tanh(nn.Module):
    """z <- tanh(W z + U x), a contraction with complex pairs."""

    def __init__(self, size: int = 8, rate: float = 0.8) -> None:
        super().__init__()
        matrix = torch.randn(size, size, generator=generator(), dtype=F64)
        self.state = nn.Parameter(rate * matrix / torch.linalg.matrix_norm(matrix, 2))
        self.input = nn.Parameter(torch.randn(size, 3, generator=generator(1), dtype=F64))

    def encode(self, inputs):
        return inputs @ self.input.T

    def start(self, recalled, generator=None):
        return torch.zeros_like(recalled)

    def step(self, state, recalled):
        return torch.tanh(state @ self.state.T + recalled)

    def read(self, state):
        return state


class Pair(nn.Module):
    """A tree of two states of different shapes, padded tokens in one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(0.3 * torch.randn(3, 3, generator=generator(), dtype=F64))
        self.gain = nn.Parameter(torch.tensor(0.4, dtype=F64))

    def encode(self, inputs):
        return {"u": inputs, "real": torch.arange(4) < torch.tensor([4, 2])[:, None]}

    def start(self, recalled, generator=None):
        return {"tokens": torch.zeros_like(recalled["u"]), "sum": torch.zeros_like(recalled["u"][:, 0])}

    def mask(self, recalled):
        return recalled["real"]

    def step(self, state, recalled):
        real = recalled["real"].unsqueeze(2)
        tokens = torch.sin(state["tokens"] @ self.mix + 0.3 * state["sum"].unsqueeze(1) + recalled["u"])
        return {"tokens": tokens * real, "sum": self.gain * (state["tokens"] * real).mean(1)}

    def read(self, state):
        return state["sum"]


def transformer():
    config = ls.LoopedTransformerConfig(
        recall="internal", norm="outer", width=8, heads=2, inputs=4, outputs=3, grid=(2, 2), attention="full"
    )
    torch.manual_seed(0)
    return ls.LoopedTransformer(config).double()


LOOPS = {
    "tanh": (Tanh, (5, 3)),
    "pair": (Pair, (2, 4, 3)),
    "transformer": (transformer, (3, 4, 4)),
}


def gradients(loop, inputs, state_of):
    """Gradients of a loss that weighs every number of the state, in the inputs and all parameters."""
    inputs = inputs.clone().requires_grad_()
    loop.zero_grad()
    total = sum(
        (leaf * (1 + torch.arange(leaf[0].numel()).view(leaf[0].shape)).sin()).sum()
        for leaf in leaves(state_of(inputs))
    )
    total.backward()
    kept = {name: parameter.grad.clone() for name, parameter in loop.named_parameters() if parameter.grad is not None}
    return {"inputs": inputs.grad, **kept}


def unrolled(loop, iterations):
    def state_of(inputs):
        recalled = loop.encode(inputs)
        return iterate(loop, loop.start(recalled), recalled, iterations)

    return state_of


def solved(loop, gradient, **options):
    return lambda inputs: fixed_point(
        loop, inputs, gradient=gradient, **{"tolerance": 1e-13, "max_iterations": 2000, **options}
    )


def error(found, expected):
    assert found.keys() == expected.keys()
    size = sum(value.square().sum() for value in expected.values()).sqrt()
    return float(sum((found[name] - expected[name]).square().sum() for name in expected).sqrt() / size)


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("solver", [ls.PlainIteration(), ls.Anderson()])
def test_the_exact_gradient_is_that_of_the_converged_loop(name, solver):
    make, shape = LOOPS[name]
    loop = make()
    inputs = torch.randn(shape, generator=generator(2), dtype=F64)
    expected = gradients(loop, inputs, unrolled(loop, 400))
    found = gradients(loop, inputs, solved(loop, EXACT, solver=solver))
    assert error(found, expected) < 1e-8
    # At the usual tolerances, too, it is closer than the bar of 1e-4 asks.
    usual = gradients(loop, inputs, solved(loop, Implicit(), tolerance=1e-6))
    assert error(usual, expected) < 1e-4


def affine(rates=(0.5, 0.9), size=6):
    matrix = torch.randn(size, size, generator=generator(3), dtype=F64)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
    return (
        FunctionLoop(
            encode=lambda x: x,
            start=lambda e: torch.zeros_like(e["u"]),
            step=lambda z, e: e["q"][:, None] * (z @ matrix.T) + e["u"],
            read=lambda z: z,
        ),
        matrix,
        torch.tensor(rates, dtype=F64),
    )


def test_closed_forms_on_an_affine_loop():
    loop, matrix, rates = affine()
    g = torch.randn(2, 6, generator=generator(4), dtype=F64)
    eye = torch.eye(6, dtype=F64)

    def vector(gradient):
        u = torch.ones(2, 6, dtype=F64, requires_grad=True)
        (
            fixed_point(loop, {"u": u, "q": rates}, gradient=gradient, max_iterations=500, tolerance=1e-10) * g
        ).sum().backward()
        return u.grad

    for row, rate in enumerate(rates):
        transposed = rate * matrix.T
        torch.testing.assert_close(vector(EXACT)[row], torch.linalg.solve(eye - transposed, g[row]))
        powers = [torch.linalg.matrix_power(transposed, power) @ g[row] for power in range(4)]
        torch.testing.assert_close(vector(Truncated())[row], g[row])
        torch.testing.assert_close(vector(Truncated(4))[row], sum(powers))
        damped = 0.7 * eye + 0.3 * transposed
        powers = [0.3 * torch.linalg.matrix_power(damped, power) @ g[row] for power in range(4)]
        torch.testing.assert_close(vector(Phantom(4, 0.3))[row], sum(powers))


def test_truncation_errors_shrink_as_the_contraction_says():
    loop = Tanh()
    inputs = torch.randn(5, 3, generator=generator(2), dtype=F64)
    expected = gradients(loop, inputs, unrolled(loop, 400))
    counts = (1, 2, 4, 8, 16, 32)
    truncated = [error(gradients(loop, inputs, solved(loop, Truncated(count))), expected) for count in counts]
    phantom = [error(gradients(loop, inputs, solved(loop, Phantom(count, 0.5))), expected) for count in counts]
    exact = error(gradients(loop, inputs, solved(loop, EXACT)), expected)
    for errors, rate in ((truncated, 0.8), (phantom, 0.9)):
        # Not below rounding, and no slower than ||J|| <= 0.8 (half of it, damped) allows.
        assert all(later < earlier for earlier, later in pairwise(errors))
        assert all(found <= errors[0] * 2 * rate ** (count - 1) for found, count in zip(errors, counts, strict=True))
        assert errors[0] > 0.1
    assert exact < truncated[-1]


def test_where_the_loop_does_not_contract_the_exact_gradient_still_holds():
    # Slope -1.5: plain iteration leaves the point, and the truncated series diverges; z* = u / 2.5.
    loop = FunctionLoop(encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: e - 1.5 * z, read=lambda z: z)
    inputs = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)
    state = fixed_point(loop, inputs, gradient=EXACT, solver=ls.DampedIteration(0.4), tolerance=1e-10)
    torch.testing.assert_close(state, inputs / 2.5)
    state.sum().backward()
    torch.testing.assert_close(inputs.grad, torch.full((2, 1), 0.4, dtype=F64))


def saved_bytes(run):
    """Bytes that the graph of ``run`` keeps for the backward pass, tensors that it shares counted once."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run().sum()
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("gradient", [Implicit(), Truncated(), Truncated(4), Phantom()])
def test_memory_does_not_grow_with_the_iterations(gradient):
    loop = transformer()
    inputs = torch.randn(3, 4, 4, generator=generator(2), dtype=F64)

    def at(iterations):
        # A tolerance out of reach, so that all iterations are taken.
        return saved_bytes(
            lambda: fixed_point(
                loop, inputs, gradient=gradient, tolerance=3e-16, max_iterations=iterations, report=lambda run: None
            )
        )

    few, many = at(16), at(256)
    assert few > 0
    assert abs(many - few) <= 0.05 * few
    assert saved_bytes(lambda: unrolled(loop, 64)(inputs)) > 3 * saved_bytes(lambda: unrolled(loop, 16)(inputs))


def test_what_the_linear_solve_came_to_is_reported():
    loop, reports = Tanh(), []
    inputs = torch.randn(5, 3, generator=generator(2), dtype=F64)
    gradients(loop, inputs, solved(loop, Implicit(report=reports.append)))
    gradients(loop, inputs, solved(loop, Implicit(max_iterations=2, report=reports.append)))
    good, short = reports
    assert isinstance(good, LinearSolution)
    assert good.converged.all()
    assert good.x.shape == (5, 8)
    assert not short.converged.any()
    assert (short.residual < 1).all()


def test_training_with_it_lowers_the_loss():
    losses = []
    loop = transformer().float()
    inputs = torch.randn(8, 4, 4, generator=generator(2))
    answers = torch.randint(0, 3, (8, 4), generator=generator(3))
    optimizer = torch.optim.AdamW(loop.parameters(), lr=1e-2)
    for _ in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            state = fixed_point(loop, inputs, gradient=Implicit(), max_iterations=40, report=lambda run: None)
            assert state.dtype == torch.float32
            logits = loop.read(state)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_bad_options_are_refused():
    for make in (lambda: Implicit(tolerance=0.0), lambda: Truncated(0), lambda: Phantom(0), lambda: Phantom(1, 0.0)):
        with pytest.raises(LoopscopeError, match="above 0"):
            make()
    counting = FunctionLoop(
        encode=lambda x: x,
        start=lambda e: {"z": torch.zeros_like(e), "t": torch.zeros(len(e), dtype=torch.long)},
        step=lambda z, e: {"z": 0.5 * z["z"] + e, "t": z["t"] + 1},
        read=lambda z: z["z"],
    )
    inputs = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(LoopscopeError, match="counter"):
        fixed_point(counting, inputs, gradient=Implicit())
    # Backpropagation through the last steps has no trouble with a counter.
    fixed_point(counting, inputs, gradient=Truncated(2), tolerance=1e-6)["z"].sum().backward()
    torch.testing.assert_close(inputs.grad, torch.full((2, 3), 1.5))


def foreign(step, start=torch.zeros_like):
    return FunctionLoop(encode=torch.clone, start=start, step=step, read=torch.clone)


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


def contraction(rate):
    return FunctionLoop(encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: rate * z + e, read=lambda z: z)


def test_a_gradient_where_the_orbit_has_not_arrived_is_warned_of_once():
    loop, inputs = contraction(0.99), torch.ones(3, 2, dtype=F64, requires_grad=True)
    residual = 0.99**99 * (1 - 0.99) / (1 - 0.99**100)
    message = rf"3 of 3 examples have not reached their fixed points within 100 .*residuals up to {residual:.1e}"
    with pytest.warns(LoopscopeWarning, match=message):
        fixed_point(loop, inputs, gradient=Truncated())
    fixed_point(loop, inputs, gradient=Truncated())  # any warning is an error here
    with pytest.warns(LoopscopeWarning, match="3 of 3"):
        fixed_point(contraction(0.99), inputs, gradient=Truncated())


def test_a_gradient_at_a_diverged_state_is_warned_of():
    inputs = torch.tensor([[1.0], [0.0]], requires_grad=True)
    with pytest.warns(LoopscopeWarning, match=r"1 of 2 examples .*, 1 diverged\)"):
        state = fixed_point(contraction(100.0), inputs, gradient=Implicit(), max_iterations=500)
    assert state.isfinite().all()


def test_who_asks_for_a_report_is_not_warned():
    runs, inputs = [], torch.ones(3, 2, dtype=F64)
    fixed_point(contraction(0.99), inputs, gradient=Truncated(), report=runs.append)
    assert (runs[0].residual > 1e-4).all()


def test_a_linear_solve_that_did_not_converge_is_warned_of_once():
    loop = Tanh()
    inputs = torch.randn(5, 3, generator=generator(2), dtype=F64)
    with pytest.warns(
        LoopscopeWarning, match=r"the implicit gradients of 5 of 5 examples are inexact: .* within 2 products"
    ):
        gradients(loop, inputs, solved(loop, Implicit(max_iterations=2)))
    gradients(loop, inputs, solved(loop, Implicit(max_iterations=2)))


def test_a_loop_without_a_hash_is_warned_of_every_time():
    class Unhashable:
        __hash__ = None

        def encode(self, inputs):
            return inputs

        def start(self, recalled, generator=None):
            return torch.zeros_like(recalled)

        def step(self, state, recalled):
            return 0.99 * state + recalled

        def read(self, state):
            return state

    for _ in range(2):
        with pytest.warns(LoopscopeWarning, match="1 of 1 examples"):
            fixed_point(Unhashable(), torch.ones(1, 1), gradient=Truncated())


@pytest.mark.parametrize("options", [{"seed": 1.5}, {"seed": 2**64}, {"tolerance": "x"}, {"max_iterations": True}])
@pytest.mark.usefixtures("unchecked")
def test_options_that_are_not_numbers_are_refused_in_one_line(options):
    (name,) = options
    with pytest.raises(LoopscopeError, match=f"^{name} is "):
        fixed_point(contraction(0.5), torch.ones(2, 1), gradient=Truncated(), **options)


@pytest.mark.usefixtures("unchecked")
def test_what_is_not_a_loop_and_an_empty_batch_are_refused():
    with pytest.raises(LoopscopeError, match=r"expected a loop .*, got NoneType"):
        fixed_point(None, torch.ones(2, 1), gradient=Truncated())
    with pytest.raises(LoopscopeError, match="the batch is empty"):
        fixed_point(contraction(0.5), torch.ones(0, 1), gradient=Truncated())
