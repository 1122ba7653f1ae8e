"""Eigenvalues against closed forms and against numpy on the full matrix."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.jacobian import step_jacobian
from loopscope.loop import FunctionLoop, iterate
from loopscope.models import LoopedTransformer, LoopedTransformerConfig
from loopscope.stability.spectrum.eigenvalues import spectral_radius, top_eigenvalues

MATRICES = FunctionLoop(
    encode=lambda matrices: matrices,
    start=lambda matrices: matrices.new_zeros(matrices.shape[:2]),
    step=lambda state, matrices: torch.einsum("bij,bj->bi", matrices, state),
    read=lambda state: state,
)
"""z -> A z, one matrix A per example: J is A."""


def rotation(degrees: float, radius: float) -> NDArray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return radius * np.array([[c, -s], [s, c]])


def jordan(value: float, size: int) -> NDArray:
    return value * np.eye(size) + np.eye(size, k=1)


def hidden(block: NDArray, size: int = 80, inner: float = 0.7) -> NDArray:
    """Return ``block`` beside a spectrum within ``inner``, in a random orthogonal basis."""
    rng = np.random.default_rng(0)
    whole = scipy.linalg.block_diag(block, np.diag(rng.uniform(-inner, inner, size)))
    basis, _ = np.linalg.qr(rng.standard_normal(whole.shape))
    return basis @ whole @ basis.T


def largest(matrices: Tensor) -> NDArray:
    return np.abs(np.linalg.eigvals(matrices.double().numpy())).max(axis=1)


KNOWN: dict[str, tuple[NDArray, float]] = {
    "real diagonal": (np.diag(np.linspace(-0.98, 0.9, 100)), 0.98),
    **{
        f"rotation by {degrees} degrees, radius {radius}": (make(rotation(degrees, radius)), radius)
        for degrees in (60, 90)
        for radius in (0.95, 1.05)
        for make in (lambda block: block, hidden)
    },
    "Jordan block of size 2": (jordan(0.9, 2), 0.9),
    "Jordan block of size 3": (jordan(0.9, 3), 0.9),
    "non-normal pair": (np.array([[0.9, 10.0], [0.0, 0.5]]), 0.9),
    "non-normal pair, hidden": (hidden(np.array([[0.9, 20.0], [0.0, 0.85]])), 0.9),
    "clustered": (hidden(np.diag([0.95, 0.9499, 0.9498, 0.945, -0.9495])), 0.95),
    "multiple of the identity": (0.9 * np.eye(100), 0.9),
    "zero": (np.zeros((30, 30)), 0.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", KNOWN)
def test_known_spectra(name: str, dtype: torch.dtype) -> None:
    matrix, radius = KNOWN[name]
    matrices = torch.from_numpy(matrix)[None].to(dtype)
    result = spectral_radius(MATRICES, MATRICES.start(matrices), matrices)
    error = abs(float(result.radius[0]) - radius)
    assert error <= 0.01 * radius + 1e-6
    assert error <= float(result.error[0]) + 1e-6


def test_random_gaussian_512() -> None:
    rng = np.random.default_rng(0)
    matrices = torch.from_numpy(rng.standard_normal((4, 512, 512)) / np.sqrt(512)).float()
    result = spectral_radius(MATRICES, MATRICES.start(matrices), matrices)
    error = np.abs(result.radius.numpy() - largest(matrices))
    assert (error <= 0.01).all()
    assert (error <= result.error.numpy()).all()
    assert result.converged.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [lambda block: block, hidden], ids=["alone", "hidden"])
def test_large_jordan_block_lies_within_its_error(make: Callable[[NDArray], NDArray], dtype: torch.dtype) -> None:
    matrices = torch.from_numpy(make(jordan(0.9, 20)))[None].to(dtype)
    result = spectral_radius(MATRICES, MATRICES.start(matrices), matrices)
    assert abs(float(result.radius[0]) - 0.9) <= float(result.error[0])
    assert bool(result.defective[0])
    assert not bool(result.converged[0])


def test_each_example_of_a_batch_is_its_own() -> None:
    rng = np.random.default_rng(1)
    radii = [0.2, 1.3, 0.7, 0.99]
    inner = [np.diag(rng.uniform(-0.5, 0.5, 40) * r) for r in radii]
    matrices = torch.from_numpy(
        np.stack([scipy.linalg.block_diag(rotation(50, r), rest) for r, rest in zip(radii, inner, strict=True)])
    )
    together = spectral_radius(MATRICES, MATRICES.start(matrices), matrices)
    assert np.allclose(together.radius, radii, rtol=1e-3)
    assert np.allclose(together.eigenvalue.imag, np.sin(np.radians(50)) * np.array(radii), rtol=1e-3)


def test_top_eigenvalues_against_numpy() -> None:
    rng = np.random.default_rng(2)
    matrices = torch.from_numpy(rng.standard_normal((3, 120, 120)) / np.sqrt(120))
    result = top_eigenvalues(MATRICES, MATRICES.start(matrices), matrices, 5)
    moduli = -np.sort(-np.abs(np.linalg.eigvals(matrices.numpy())), axis=1)[:, :5]
    assert (np.abs(result.eigenvalues.abs().numpy() - moduli) <= result.error.numpy()).all()
    assert np.allclose(result.eigenvalues.abs(), moduli, rtol=0.01)


def similar(matrix: NDArray, rng: np.random.Generator, spread: float) -> NDArray:
    """Return S A S^{-1} with singular values of S between exp(-spread) and exp(spread)."""
    size = len(matrix)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    basis = left * np.exp(rng.uniform(-spread, spread, size)) @ right
    return basis @ matrix @ np.linalg.inv(basis)


def rotations(rng: np.random.Generator, size: int, radii: NDArray) -> NDArray:
    return scipy.linalg.block_diag(
        *[rotation(d, r) for d, r in zip(rng.uniform(0, 180, size // 2), radii, strict=True)]
    )


def defective(rng: np.random.Generator, size: int) -> NDArray:
    block = jordan(rng.uniform(-1.05, 1.05), rng.integers(2, 6)) * rng.uniform(0.3, 1.5)
    whole = scipy.linalg.block_diag(block, np.diag(rng.uniform(-0.7, 0.7, size - len(block))))
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return basis @ whole @ basis.T


RANDOM: dict[str, Callable[[np.random.Generator, int], NDArray]] = {
    "gaussian": lambda rng, n: rng.standard_normal((n, n)) / np.sqrt(n),
    "symmetric": lambda rng, n: (lambda a: (a + a.T) / np.sqrt(4 * n))(rng.standard_normal((n, n))),
    "triangular": lambda rng, n: np.triu(rng.standard_normal((n, n)) * 0.05, 1) + np.diag(rng.uniform(-1, 1, n)),
    "real, oblique": lambda rng, n: similar(np.diag(rng.uniform(-1, 1, n)), rng, 1.5),
    "complex, oblique": lambda rng, n: similar(rotations(rng, n, rng.uniform(0, 1, n // 2)), rng, 1.0),
    "defective": defective,
    "sparse": lambda rng, n: rng.standard_normal((n, n)) * (rng.random((n, n)) < 4 / n) * 0.5,
    "stochastic": lambda rng, n: (lambda a: 0.95 * a / a.sum(1, keepdims=True))(rng.exponential(size=(n, n))),
    "near identity": lambda rng, n: np.eye(n) + 0.05 * rng.standard_normal((n, n)) / np.sqrt(n),
    "clustered": lambda rng, n: similar(
        np.diag(np.r_[0.95 + rng.normal(0, 1e-3, 5), rng.uniform(-0.9, 0.9, n - 5)]), rng, 1.0
    ),
}


def test_error_covers_a_thousand_random_cases() -> None:
    covered, close = [], []
    for index, make in enumerate(RANDOM.values()):
        rng = np.random.default_rng(index)
        for size, dtype in ((10, torch.float32), (40, torch.float64), (80, torch.float32), (120, torch.float64)):
            matrices = torch.from_numpy(np.stack([make(rng, size) for _ in range(25)])).to(dtype)
            result = spectral_radius(MATRICES, MATRICES.start(matrices), matrices, seed=index)
            radius = largest(matrices)
            error = np.abs(result.radius.numpy() - radius)
            covered.append(error <= result.error.numpy() + 1e-12)
            close.append((error <= 0.01 * radius)[result.converged.numpy()])
    assert np.concatenate(covered).size == 1000
    assert np.concatenate(covered).mean() >= 0.99
    assert np.concatenate(close).mean() >= 0.99
    assert np.concatenate(close).size >= 900


@pytest.mark.parametrize("norm", ["pre", "peri", "outer", "sandwich", "gru"])
@pytest.mark.parametrize("recall", ["none", "external", "internal"])
def test_looped_transformers_against_their_full_jacobian(recall: str, norm: str) -> None:
    torch.manual_seed(0)
    config = LoopedTransformerConfig(
        recall=recall, norm=norm, width=32, heads=2, inputs=5, outputs=3, grid=(3, 3), attention="full"
    )
    model = LoopedTransformer(config).eval()
    with torch.no_grad():
        recalled = model.encode(torch.randn(3, 9, 5))
        state = iterate(model, model.start(recalled), recalled, 20)
    result = spectral_radius(model, state, recalled)
    jacobian = step_jacobian(model, state, recalled)
    rows = torch.eye(jacobian.size)
    full = torch.stack([jacobian.vjp(row.expand(3, -1)) for row in rows], dim=1)
    error = np.abs(result.radius.numpy() - largest(full))
    assert (error <= 0.01 * largest(full)).all()
    assert (error <= result.error.numpy()).all()
    assert result.converged.all()
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_restarts_reach_a_crowded_rim() -> None:
    rng = np.random.default_rng(7)
    inner = [
        rotation(degrees, radius)
        for degrees, radius in zip(rng.uniform(0, 180, 150), rng.uniform(0, 0.93, 150), strict=True)
    ]
    matrices = torch.from_numpy(scipy.linalg.block_diag(rotation(73, 0.95), *inner))[None]
    result = spectral_radius(MATRICES, MATRICES.start(matrices), matrices, subspace=20, max_products=2000)
    assert int(result.products[0]) > 40
    assert float(result.radius[0]) == pytest.approx(0.95, rel=0.01)
    assert abs(float(result.radius[0]) - 0.95) <= float(result.error[0])


def test_too_few_products_are_not_called_converged() -> None:
    rng = np.random.default_rng(0)
    matrices = torch.from_numpy(rng.standard_normal((2, 300, 300)) / np.sqrt(300))
    result = spectral_radius(MATRICES, MATRICES.start(matrices), matrices, max_products=15)
    assert not result.converged.any()
    assert (np.abs(result.radius.numpy() - largest(matrices)) <= result.error.numpy()).all()


def test_jacobian_that_is_not_finite_is_unknown_and_alone() -> None:
    matrices = torch.stack([torch.full((30, 30), torch.nan), 0.5 * torch.eye(30)])
    result = spectral_radius(MATRICES, MATRICES.start(matrices), matrices)
    assert result.radius.isnan().tolist() == [True, False]
    assert result.error.isinf().tolist() == [True, False]
    assert result.converged.tolist() == [False, True]
    assert float(result.radius[1]) == pytest.approx(0.5)


def test_global_random_state_is_left_alone() -> None:
    matrices = torch.eye(50)[None] * 0.5
    before = torch.random.get_rng_state()
    spectral_radius(MATRICES, MATRICES.start(matrices), matrices)
    assert torch.equal(before, torch.random.get_rng_state())


def test_bad_options_are_refused() -> None:
    matrices = torch.eye(5)[None]
    with pytest.raises(LoopscopeError, match="tolerance"):
        spectral_radius(MATRICES, MATRICES.start(matrices), matrices, tolerance=0.0)
    with pytest.raises(LoopscopeError, match="k is 0, expected a whole number above 0"):
        top_eigenvalues(MATRICES, MATRICES.start(matrices), matrices, 0)


@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e-12, 1e12, 1e19, 1e30])
def test_matrices_of_any_scale_are_measured_alike(scale: float) -> None:
    """Squares of these numbers overflow float32, or vanish in it."""
    matrices = torch.from_numpy(np.random.default_rng(5).standard_normal((2, 40, 40))).float()
    small = scale * matrices
    result = spectral_radius(MATRICES, MATRICES.start(small), small)
    assert result.converged.all()
    assert np.allclose(result.radius / scale, largest(matrices), rtol=0.01)
    assert (result.error / scale < 0.1).all()


@pytest.mark.parametrize("scale", [1e-35, 1e30])
def test_matrices_of_nearly_low_rank_are_measured_alike_at_any_scale(scale: float) -> None:
    """After three products, what is new in the next is a hundred thousand times smaller, below float32's range at 1e-35."""
    rng = np.random.default_rng(7)
    low_rank = rng.standard_normal((2, 40, 3)) @ rng.standard_normal((2, 3, 40))
    matrices = torch.from_numpy(low_rank + 1e-5 * rng.standard_normal((2, 40, 40))).float()
    small = scale * matrices
    result = spectral_radius(MATRICES, MATRICES.start(small), small)
    assert result.converged.all()
    assert np.allclose(result.radius / scale, largest(matrices), rtol=1e-3)


def test_an_error_is_small_beside_the_matrix_not_beside_one() -> None:
    """Ten products do not resolve this rim, whatever its scale."""
    matrices = torch.from_numpy(1e-6 * np.random.default_rng(6).standard_normal((1, 300, 300)) / np.sqrt(300)).float()
    result = spectral_radius(MATRICES, MATRICES.start(matrices), matrices, max_products=10, subspace=8)
    assert not result.converged.any()
