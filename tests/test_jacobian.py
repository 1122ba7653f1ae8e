"""Jacobian products against the full Jacobian, GMRES against a direct solve."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from loopscope.errors import LoopscopeError
from loopscope.gmres import gmres as solve
from loopscope.gmres import identity_minus, identity_minus_transpose, orthogonalize, unit
from loopscope.jacobian import (
    CENTRAL_DIFFERENCES,
    DOUBLE_BACKWARD,
    FORWARD_MODE,
    Jacobian,
    input_jacobian,
    step_jacobian,
)
from loopscope.loop import FunctionLoop
from loopscope.trees import Tree

WIDTH = 6
TRAINABLE = nn.Linear(3, 3)


class Affine(torch.autograd.Function):
    """2 x, with a backward pass alone: no forward mode, and no second derivative."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Tangential(Affine):
    """2 x, with a rule for forward mode, and no second derivative."""

    @staticmethod
    def jvp(ctx: object, tangent: Tensor) -> Tensor:
        return 2 * tangent


class Attention(nn.Module):
    """One attention layer with RMSNorm, as a loop on [batch, tokens, width]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.embed = nn.Linear(3, WIDTH)

    def encode(self, inputs: Tensor) -> Tensor:
        return self.embed(inputs)

    def start(self, recalled: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return recalled

    def step(self, state: Tensor, recalled: Tensor) -> Tensor:
        query, key, value = self.project(state).unsqueeze(1).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).squeeze(1)
        return nn.functional.rms_norm(state + mixed + recalled, (WIDTH,))

    def read(self, state: Tensor) -> Tensor:
        return state


def loop_of(step: Callable[[Tree, Tree], Tree], **extra: object) -> FunctionLoop:
    return FunctionLoop(lambda x: x, lambda e: e, step, lambda z: z, **extra)  # type: ignore[arg-type]


def full(jacobian: Jacobian, example: int = 0) -> Tensor:
    """Return the whole Jacobian of one example, row by row, from autograd."""
    one = jacobian.select(slice(example, example + 1))
    return torch.autograd.functional.jacobian(lambda point: one.function(point[None], one.context)[0], one.point[0])


@pytest.fixture
def attention() -> tuple[Jacobian, Tensor]:
    loop = Attention().double()
    recalled = loop.encode(torch.randn(3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    jacobian = step_jacobian(loop, recalled, recalled)
    return jacobian, torch.stack([full(jacobian, example) for example in range(3)])


@pytest.mark.parametrize("product", [FORWARD_MODE, DOUBLE_BACKWARD, CENTRAL_DIFFERENCES])
def test_products_equal_those_of_the_full_jacobian(attention: tuple[Jacobian, Tensor], product: str) -> None:
    jacobian, matrices = attention
    assert jacobian.product == DOUBLE_BACKWARD
    jacobian.__dict__["product"] = product
    vectors = torch.randn(3, jacobian.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(jacobian.vjp(vectors), torch.einsum("bij,bi->bj", matrices, vectors))
    assert torch.allclose(jacobian.jvp(vectors), torch.einsum("bij,bj->bi", matrices, vectors), atol=1e-8)
    assert torch.allclose(jacobian.select(torch.tensor([2])).vjp(vectors[2:]), jacobian.vjp(vectors)[2:])


@pytest.mark.parametrize(
    ("operation", "product"),
    [(torch.tanh, DOUBLE_BACKWARD), (Tangential.apply, FORWARD_MODE), (Affine.apply, CENTRAL_DIFFERENCES)],
)
def test_products_fall_back_and_say_so(operation: Callable[[Tensor], Tensor], product: str) -> None:
    state = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    jacobian = step_jacobian(loop_of(lambda z, e: operation(z).flip(1)), state, state)
    vectors = torch.ones(2, 4, dtype=torch.float64)
    expected = (1 - torch.tanh(state).square() if operation is torch.tanh else 2 * vectors).flip(1)
    assert jacobian.product == product
    assert torch.allclose(jacobian.jvp(vectors), expected, atol=1e-8)


def test_padding_is_outside() -> None:
    state, keep = torch.randn(2, 3, 4, dtype=torch.float64), torch.tensor([[True, True, False], [True, False, False]])
    loop = loop_of(lambda z, e: z.flip(1).cumsum(1).tanh(), padding=lambda e: e["keep"])
    matrix = full(step_jacobian(loop, state, {"keep": keep}))
    outside = (~keep[0]).repeat_interleave(4)
    assert (matrix[outside] == 0).all()
    assert (matrix[:, outside] == 0).all()
    assert (matrix[~outside][:, ~outside] != 0).any()


def test_input_jacobian_names_its_path() -> None:
    loop = Attention().double()
    inputs = torch.randn(2, 4, 3, dtype=torch.float64)
    recalled = loop.encode(inputs)
    through = input_jacobian(loop, recalled, recalled, inputs)
    beside = input_jacobian(loop, recalled, recalled, inputs.long())
    assert (through.path, beside.path) == ("inputs, through encode", "recalled input")
    embedding = torch.block_diag(*[loop.embed.weight.detach()] * 4)
    assert torch.allclose(full(through), full(beside) @ embedding)


def test_module_is_left_as_it_was() -> None:
    loop = Attention()
    state = torch.randn(2, 4, WIDTH)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        made_in_inference = state * 1.0
    with torch.inference_mode():
        jacobian = step_jacobian(loop, made_in_inference, made_in_inference, dtype=torch.float64)
        product = jacobian.vjp(torch.ones(2, jacobian.size))
    assert product.dtype == torch.float64
    assert jacobian.jvp(torch.ones(2, jacobian.size)).isfinite().all()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(p.grad is None and p.requires_grad and p.dtype == torch.float32 for p in loop.parameters())


def test_half_precision_states_are_differentiated_in_float32() -> None:
    state = torch.linspace(-1, 1, 8).reshape(2, 4).bfloat16()
    jacobian = step_jacobian(loop_of(lambda z, e: z * 0.5), state, state)
    assert jacobian.vjp(torch.ones(2, 4)).dtype == torch.float32
    assert torch.equal(jacobian.vjp(torch.ones(2, 4)), torch.full((2, 4), 0.5))


def test_step_that_ignores_the_state_has_zero_jacobian() -> None:
    jacobian = step_jacobian(loop_of(lambda z, e: e), torch.ones(2, 3), torch.zeros(2, 3))
    assert (jacobian.vjp(torch.ones(2, 3)) == 0).all()
    assert (jacobian.jvp(torch.ones(2, 3)) == 0).all()


@pytest.mark.parametrize(
    ("step", "state", "message"),
    [
        (lambda z, e: (z[0], z[1] + 1), (torch.ones(2, 3), torch.ones(2, dtype=torch.long)), "counter"),
        (lambda z, e: z.detach() * 2, torch.ones(2, 3), "no gradient"),
        (lambda z, e: TRAINABLE(z.detach()) + e, torch.ones(2, 3), "no gradient"),
        (lambda z, e: z[:, :2], torch.ones(2, 3), "same structure"),
        (lambda z, e: z + torch.rand(2, 3), torch.ones(2, 3), "random"),
    ],
)
def test_what_has_no_jacobian_is_refused(step: Callable[[Tree, Tree], Tree], state: Tree, message: str) -> None:
    with pytest.raises(LoopscopeError, match=message):
        step_jacobian(loop_of(step), state, torch.ones(2, 3))


def test_an_encoder_that_rounds_its_inputs_is_left_aside_though_it_is_trainable() -> None:
    table = nn.Embedding(5, 3)
    loop = FunctionLoop(lambda x: table(x.long()), lambda e: e, lambda z, e: z / 2 + e, lambda z: z)
    inputs = torch.tensor([1.0, 3.0])
    recalled = loop.encode(inputs)
    found = input_jacobian(loop, recalled, recalled, inputs)
    assert found.path == "recalled input"
    assert torch.equal(full(found), torch.eye(3))


def test_a_step_that_recalls_nothing_has_no_derivative_in_its_inputs() -> None:
    scale = nn.Linear(3, 3)
    loop = FunctionLoop(scale, torch.zeros_like, lambda z, e: z / 2, lambda z: z)
    inputs = torch.ones(2, 3)
    found = input_jacobian(loop, inputs, loop.encode(inputs), inputs)
    assert found.path == "inputs, through encode"
    assert (found.vjp(torch.ones(2, 3)) == 0).all()
    cut = FunctionLoop(scale, torch.zeros_like, lambda z, e: z / 2 + e.detach(), lambda z: z)
    with pytest.raises(LoopscopeError, match="the step changes with the input but carries no gradient to it"):
        input_jacobian(cut, inputs, loop.encode(inputs), inputs)


def test_input_without_floating_leaf_is_refused_and_the_leaves_that_could_serve_are_named() -> None:
    ids = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(
        LoopscopeError, match=r"\(recalled is int64\): let encode return the embedded input, such as embed\(ids\)"
    ):
        input_jacobian(loop_of(lambda z, e: z), torch.ones(2, 3), ids)
    bias = torch.tensor([[0.0, -1e9]] * 2)
    recalled, said = (
        {"ids": ids, "bias": bias},
        r"recalled\['ids'\] is int64, recalled\['bias'\] is a mask in float32, inputs is int64",
    )
    with pytest.raises(LoopscopeError, match=said):
        input_jacobian(loop_of(lambda z, e: z), torch.ones(2, 3), recalled, ids)


def linear_jacobian(matrices: Tensor) -> Jacobian:
    loop = loop_of(lambda z, a: torch.einsum("bij,bj->bi", a, z))
    return step_jacobian(loop, matrices.new_zeros(matrices.shape[:2]), matrices)


@settings(max_examples=30)
@given(st.integers(1, 40), st.floats(0, 3), st.integers(0, 1000))
def test_solve_equals_a_direct_solve(size: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrices = torch.from_numpy(scale * rng.standard_normal((3, size, size)) / np.sqrt(size))
    rhs = torch.from_numpy(rng.standard_normal((3, size)))
    jacobian = linear_jacobian(matrices)
    for operator, matrix in (
        (identity_minus(jacobian), torch.eye(size) - matrices),
        (identity_minus_transpose(jacobian), torch.eye(size) - matrices.mT),
    ):
        solution = solve(operator, rhs, tolerance=1e-9)
        true = torch.linalg.vector_norm(rhs - torch.einsum("bij,bj->bi", matrix, solution.x), dim=1)
        assert torch.allclose(true / torch.linalg.vector_norm(rhs, dim=1), solution.residual, atol=1e-12)
        assert torch.equal(solution.converged, solution.residual <= 1e-9)
        if np.linalg.cond(matrix.numpy()).max() < 1e5:
            assert solution.converged.all()
            direct = torch.linalg.solve(matrix, rhs)
            assert torch.allclose(solution.x, direct, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_right_sides_of_any_scale_are_solved_alike(scale: float) -> None:
    """Their squares vanish in float32, or overflow it."""
    rng = torch.Generator().manual_seed(0)
    matrix = 0.5 * torch.linalg.qr(torch.randn(1, 20, 20, generator=rng))[0]
    rhs = torch.randn(1, 20, generator=rng)
    solution = solve(identity_minus(linear_jacobian(matrix)), scale * rhs, tolerance=1e-5)
    assert solution.converged.all()
    torch.testing.assert_close(
        solution.x / scale, torch.linalg.solve(torch.eye(20) - matrix, rhs), rtol=1e-3, atol=1e-4
    )


def test_solve_says_when_it_did_not_converge() -> None:
    singular = torch.eye(50, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    hard = torch.randn(50, 50, dtype=torch.float64, generator=rng)
    easy = 0.1 * torch.eye(50, dtype=torch.float64)
    rhs = torch.randn(3, 50, dtype=torch.float64, generator=rng)
    operator = identity_minus(linear_jacobian(torch.stack([singular, hard, easy])))
    solution = solve(operator, rhs, tolerance=1e-8, max_iterations=10)
    assert solution.converged.tolist() == [False, False, True]
    assert (solution.residual[:2] > 1e-8).all()
    zero = solve(operator, torch.zeros(3, 50, dtype=torch.float64))
    assert zero.converged.all()
    assert zero.products == 0
    rhs[1, 0] = torch.nan
    unknown = solve(operator, rhs, tolerance=1e-8, max_iterations=10)
    assert unknown.converged.tolist() == [False, False, True]
    assert unknown.x[1].isnan().all()
    assert torch.equal(unknown.x[2], solution.x[2])


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(9, 30), st.integers(0, 1000))
def test_orthogonalize_splits_a_vector(count: int, size: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(2, size, count, generator=rng, dtype=torch.float64)).Q.mT.contiguous()
    vectors = torch.randn(2, size, generator=rng, dtype=torch.float64)
    rest, coefficients = orthogonalize(basis, vectors)
    assert torch.allclose(rest + torch.einsum("bmn,bm->bn", basis, coefficients), vectors)
    assert torch.einsum("bmn,bn->bm", basis, rest).abs().max() < 1e-12
    direction, length = unit(rest, torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(direction * length[:, None], rest)


def test_what_is_tiny_has_no_length_and_what_is_no_number_is_not_called_tiny() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0], [torch.nan, 1.0]])
    directions, lengths = unit(vectors, torch.tensor([0.0, 0.0, 1e-8, 1e-8]))
    assert lengths[:3].tolist() == [5.0, 0.0, 0.0]
    assert lengths[3].isnan()
    assert directions[0].tolist() == pytest.approx([0.6, 0.8])
    assert directions[1:3].equal(vectors[1:3])
