"""Singular values against numpy on the full matrix."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop, iterate
from loopscope.stability.spectrum.singular_values import lipschitz, power_norms, resolvent_norm, singular_value

SIZE = 120


@dataclass(frozen=True)
class Case:
    """z -> tanh(A z + B x) at some states: J = diag(1 - f^2) A, df/dx = diag(1 - f^2) B."""

    loop: FunctionLoop
    inputs: Tensor
    recalled: Tensor
    state: Tensor
    jacobian: np.ndarray
    inward: np.ndarray

    @property
    def inverse(self) -> np.ndarray:
        return np.linalg.inv(np.eye(SIZE) - self.jacobian)


def make_case(matrix: np.ndarray) -> Case:
    rng = np.random.default_rng(3)
    a, b = torch.from_numpy(matrix), torch.from_numpy(rng.standard_normal((SIZE, 10)))
    inputs = torch.from_numpy(0.3 * rng.standard_normal((3, 10)))
    loop = FunctionLoop(
        encode=lambda x: x @ b.T,
        start=lambda e: torch.zeros_like(e),
        step=lambda z, e: torch.tanh(z @ a.T + e),
        read=lambda z: z,
    )
    recalled = loop.encode(inputs)
    state = iterate(loop, loop.start(recalled), recalled, 20)
    slope = (1 - loop.step(state, recalled).square()).numpy()[:, :, None]
    return Case(loop, inputs, recalled, state, slope * matrix, slope * b.numpy())


def gaussian(scale: float) -> np.ndarray:
    return scale * np.random.default_rng(4).standard_normal((SIZE, SIZE)) / np.sqrt(SIZE)


MATRICES: dict[str, np.ndarray] = {
    "gaussian": gaussian(0.6),
    "non-normal": np.triu(gaussian(4.0), 1) + 0.5 * np.eye(SIZE),
    "diagonal": np.diag(np.linspace(-0.9, 0.8, SIZE)),
    "low rank": np.outer(np.ones(SIZE), np.linspace(-1, 1, SIZE)) / SIZE,
    "expanding": gaussian(2.5),
}


def check(found: Tensor, error: Tensor, expected: np.ndarray) -> None:
    assert np.allclose(found, expected, rtol=0.01)
    assert (np.abs(found.numpy() - expected) <= error.numpy() + 1e-9).all()


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    ("measure", "operator"),
    [
        (lambda c: singular_value(c.loop, c.state, c.recalled), lambda c: c.jacobian),
        (lambda c: resolvent_norm(c.loop, c.state, c.recalled), lambda c: c.inverse),
        (lambda c: lipschitz(c.loop, c.state, c.recalled, c.inputs), lambda c: c.inverse @ c.inward),
    ],
    ids=["J", "resolvent", "lipschitz"],
)
def test_against_numpy(name: str, measure: Callable, operator: Callable) -> None:
    case = make_case(MATRICES[name])
    found = measure(case)
    assert found.converged.all()
    check(found.value, found.error, np.linalg.svd(operator(case), compute_uv=False)[:, 0])


def test_lipschitz_beside_the_encoder() -> None:
    case = make_case(MATRICES["gaussian"])
    found = lipschitz(case.loop, case.state, case.recalled)
    gain = (1 - case.loop.step(case.state, case.recalled).square()).numpy()
    expected = np.linalg.svd(case.inverse * gain[:, None, :], compute_uv=False)[:, 0]
    assert found.path == "recalled input"
    check(found.value, found.error, expected)


def masked_attention(fill: float | None) -> tuple[FunctionLoop, Tensor]:
    """z -> softmax(scores + mask) z / 2 + e with a padded last token, the mask in floats, or in booleans for None."""
    keep = torch.tensor([[True, True, True, False], [True, True, False, False]])
    inputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(5))

    def encode(x: Tensor) -> dict[str, Tensor]:
        bias = keep if fill is None else torch.zeros(2, 4).masked_fill(~keep, fill)
        return {"e": x.detach(), "mask": bias}

    def step(z: Tensor, recalled: dict[str, Tensor]) -> Tensor:
        mask = recalled["mask"]
        scores = z @ z.mT
        bias = mask[:, None] if fill is not None else torch.zeros_like(scores).masked_fill(~mask[:, None], -torch.inf)
        return (scores + bias).softmax(-1) @ z / 4 + torch.tanh(recalled["e"])

    return FunctionLoop(encode, lambda r: torch.zeros_like(r["e"]), step, lambda z: z), inputs


def test_floating_masks_neither_enter_the_lipschitz_constant_nor_its_relative_size() -> None:
    found = []
    for fill in (None, -1e3, -1e4, -1e9, -torch.inf, torch.finfo(torch.float32).min):
        loop, inputs = masked_attention(fill)
        recalled = loop.encode(inputs)
        state = iterate(loop, loop.start(recalled), recalled, 60)
        one = lipschitz(loop, state, recalled, inputs)
        assert one.path == "recalled input"
        assert one.relative is not None
        found.append((one.value, one.relative))
        size = recalled["e"].flatten(1).norm(dim=1) / state.flatten(1).norm(dim=1)
        assert torch.allclose(one.relative.float(), one.value.float() * size, rtol=1e-5)
    for value, relative in found[1:]:
        assert torch.allclose(value, found[0][0], rtol=1e-4)
        assert torch.allclose(relative, found[0][1], rtol=1e-4)


def test_power_norms_are_lower_bounds_and_find_the_transient() -> None:
    case = make_case(MATRICES["non-normal"])
    found = power_norms(case.loop, case.state, case.recalled)
    exact = np.stack([[np.linalg.norm(np.linalg.matrix_power(j, k), 2) for k in found.powers] for j in case.jacobian])
    assert (found.norms.numpy() <= exact * (1 + 1e-6)).all()
    assert (found.norms.numpy() >= 0.8 * exact).all()
    assert np.allclose(found.largest, exact.max(axis=1), rtol=0.01)
    assert (found.largest > 1).all()
    assert np.array_equal(found.at_power, np.array(found.powers)[exact.argmax(axis=1)])


def test_a_singular_resolvent_is_not_called_converged() -> None:
    matrix = gaussian(0.5)
    matrix[0] = matrix[:, 0] = 0
    matrix[0, 0] = 1
    loop = FunctionLoop(lambda x: x, lambda e: e, lambda z, e: z @ torch.from_numpy(matrix).T, lambda z: z)
    state = torch.zeros(1, SIZE, dtype=torch.float64)
    found = resolvent_norm(loop, state, state, max_iterations=60)
    assert not found.converged.any()
    assert (found.solve_residual > 1e-3).all()


def test_zero_jacobian() -> None:
    loop = FunctionLoop(lambda x: x, lambda e: e, lambda z, e: e, lambda z: z)
    state = torch.ones(2, 5)
    assert (singular_value(loop, state, state).value == 0).all()
    assert torch.allclose(resolvent_norm(loop, state, state).value, torch.ones(2, dtype=torch.float64))


def test_bad_options_are_refused() -> None:
    case = make_case(MATRICES["gaussian"])
    with pytest.raises(LoopscopeError, match="tolerance"):
        singular_value(case.loop, case.state, case.recalled, tolerance=2.0)
    with pytest.raises(LoopscopeError, match="powers"):
        power_norms(case.loop, case.state, case.recalled, powers=(0, 1))


@pytest.mark.parametrize("measure", [singular_value, power_norms, resolvent_norm])
def test_a_jacobian_that_is_not_finite_is_no_number_and_leaves_the_others_theirs(measure):
    a = torch.from_numpy(gaussian(0.3)[:20, :20])
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z.square() @ a.T + e, lambda z: z)
    state = torch.from_numpy(np.random.default_rng(5).standard_normal((3, 20)))
    state[1, 4] = torch.inf
    found = measure(loop, state, state, tolerance=1e-6)
    numbers = found.largest if measure is power_norms else found.value
    assert numbers.isnan().tolist() == [False, True, False]
    assert not found.converged[1].any()
    for row in (0, 2):
        jacobian = a.numpy() * 2 * state[row].numpy()
        if measure is power_norms:
            expected = max(np.linalg.norm(np.linalg.matrix_power(jacobian, k), 2) for k in found.powers)
        elif measure is resolvent_norm:
            expected = np.linalg.norm(np.linalg.inv(np.eye(20) - jacobian), 2)
        else:
            expected = np.linalg.norm(jacobian, 2)
        assert float(numbers[row]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e19])
def test_singular_values_of_any_scale_are_measured_alike(scale: float) -> None:
    matrix = torch.from_numpy(np.random.default_rng(7).standard_normal((30, 30))).float()
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: scale * (z @ matrix.T), lambda z: z)
    found = singular_value(loop, torch.zeros(2, 30), torch.zeros(2, 30))
    assert found.converged.all()
    assert (found.value / scale).tolist() == pytest.approx([float(torch.linalg.matrix_norm(matrix, 2))] * 2, rel=0.01)


@pytest.mark.parametrize("factor", [1e-3, 0.05, 30.0, 1e3])
def test_high_powers_neither_overflow_nor_vanish(factor: float) -> None:
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: factor * z.flip(1), lambda z: z)
    found = power_norms(loop, torch.zeros(2, 5), torch.zeros(2, 5))
    assert found.converged.all()
    expected = [factor**k for k in found.powers]
    assert np.allclose(found.norms, expected, rtol=1e-3)
