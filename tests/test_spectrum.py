"""Eigenvalues against closed forms and against numpy on the full matrix."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop
from loopscope.stability.spectrum import spectral_radius, top_eigenvalues

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


def test_global_random_state_is_left_alone() -> None:
    matrices = torch.eye(50)[None] * 0.5
    before = torch.random.get_rng_state()
    spectral_radius(MATRICES, MATRICES.start(matrices), matrices)
    assert torch.equal(before, torch.random.get_rng_state())


def test_bad_options_are_refused() -> None:
    matrices = torch.eye(5)[None]
    with pytest.raises(LoopscopeError, match="tolerance"):
        spectral_radius(MATRICES, MATRICES.start(matrices), matrices, tolerance=0.0)
    with pytest.raises(LoopscopeError, match="k >= 1"):
        top_eigenvalues(MATRICES, MATRICES.start(matrices), matrices, 0)
