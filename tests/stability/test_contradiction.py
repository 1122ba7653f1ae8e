"""Does an orbit contradict its Jacobian? Affine maps of known radius never do; a step that hides part of itself does."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import loopscope as ls
from loopscope.loop import FunctionLoop
from loopscope.stability.orbits.arrival import follow
from loopscope.stability.spectrum.contradiction import contradicted, further_growth, last_decay
from loopscope.stability.spectrum.eigenvalues import spectral_radius


def affine(matrix: Tensor, **changes: object) -> FunctionLoop:
    parts = {"step": lambda z, e: z @ matrix.T + e, "encode": lambda x: x, "start": lambda e: e, "read": lambda z: z}
    return FunctionLoop(**{**parts, **changes})  # type: ignore[arg-type]


def judge(loop: FunctionLoop, inputs: Tensor, iterations: int = 400) -> Tensor:
    ends = follow(loop, inputs, inputs, iterations=iterations)
    radius = spectral_radius(loop, ends.state, inputs)
    return contradicted(loop, ends.state, inputs, ends.residual, ends.arrived, radius)


def spectrum_of(kind: str, radius: float, generator: np.random.Generator) -> np.ndarray:
    """Return a 12 x 12 matrix of this spectral radius: normal, with a coupling above the diagonal, or in a basis."""
    turns = generator.uniform(0.1, 3, 6)
    sizes = radius * np.concatenate([[1.0], generator.uniform(0.3, 1.0, 5)])
    matrix = np.zeros((12, 12))
    for i, (turn, size) in enumerate(zip(turns, sizes, strict=True)):
        block = size * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    if kind == "coupled":
        matrix += np.triu(generator.normal(size=(12, 12)), 2)
    if kind == "in a basis":
        basis = generator.normal(size=(12, 12))
        return basis @ matrix @ np.linalg.inv(basis)
    return matrix


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "coupled", "in a basis"])
@pytest.mark.parametrize("radius", [0.3, 0.7, 0.9, 0.97])
def test_no_affine_map_is_contradicted(kind: str, radius: float, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(round(100 * radius))
    matrix = torch.tensor(spectrum_of(kind, radius, generator), dtype=dtype)
    inputs = torch.tensor(generator.normal(size=(10, 12)), dtype=dtype)
    assert not judge(affine(matrix), inputs).any()


def test_a_jordan_block_is_not_contradicted_though_it_contracts_more_slowly_than_its_radius() -> None:
    matrix = 0.9 * torch.eye(3, dtype=torch.float64) + torch.diag(torch.ones(2, dtype=torch.float64), 1)
    loop, inputs = affine(matrix), torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ends = follow(loop, inputs, inputs, iterations=200)
    assert (last_decay(ends.residual)[0] > 0.905).all()
    assert ends.arrived.all()
    assert not judge(loop, inputs, 200).any()


def test_a_step_that_hides_part_of_itself_is_contradicted() -> None:
    matrix = 0.9 * torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    loop = affine(matrix, step=lambda z, e: 0.3 * z @ matrix.T + 0.7 * (z @ matrix.T).detach() + e)
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    assert judge(loop, inputs).all()
    exam = ls.examine(loop, inputs, effort="quick")
    assert exam.spectrum.radius == pytest.approx([0.27, 0.27], rel=0.01)
    assert exam.spectrum.contradicted == [True, True]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            0.49,
            "2 of 2 orbits contract more slowly than the Jacobian allows (0.979 per iteration, spectral radius 0.49)",
        ),
        # At rest after a few iterations: there is no contraction to observe.
        (0.01, "products with the Jacobian disagree with finite differences of the step at 2 of 2 states"),
    ],
)
def test_a_contradiction_leaves_the_verdict_undecided_and_is_said_first(seen: float, said: str, tmp_path) -> None:
    """Half of the step is hidden from autograd."""

    def step(z: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hidden = seen * z
        return seen * z + hidden + e

    loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, step, lambda z: z)
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    exam = ls.examine(loop, inputs, inputs.argmax(1), effort="quick", iterations=1000)
    assert exam.verdict is ls.Verdict.UNDECIDED
    assert exam.axes[2].status.value == "unknown"
    assert exam.spectrum.hidden == [True, True]
    assert exam.axes[2].doubt == said
    assert exam.headline == f"undecided: {said}"
    assert str(exam).splitlines()[0].startswith(f"undecided: {said}"[:100])
    assert exam.advice.startswith(f"No verdict: {said}. Either a part of the step is hidden from autograd")
    page = exam.save(tmp_path / "exam.html").read_text()
    assert f"<strong>U{exam.headline[1:]}" in page
    assert ls.Examination.load(exam.save(tmp_path / "exam.json")).headline == exam.headline


def test_where_states_do_not_arrive_the_verdict_does_not_rest_on_the_jacobian() -> None:
    loop = affine(torch.eye(3), step=lambda z, e: 1.5 * z.detach() + 1.5 * z + e)
    exam = ls.examine(
        loop, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), effort="quick", iterations=30
    )
    assert exam.verdict is ls.Verdict.UNSTABLE
    assert exam.axes[2].doubt is not None


def test_an_orbit_that_is_slow_only_far_from_its_fixed_point_is_not_contradicted() -> None:
    """Near zero it is driven away, at a factor of 2, and it arrives at a factor of 0.17: eight iterations see some of both."""
    loop = affine(torch.eye(2), step=lambda z, e: torch.tanh(2 * z))
    inputs = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    ends = follow(loop, inputs, inputs, iterations=100)
    slower = last_decay(ends.residual)[0] > 0.24
    assert slower.sum() >= 5
    assert not judge(loop, inputs, 100).any()


@pytest.mark.parametrize("kind", ["normal", "coupled", "in a basis"])
def test_a_radius_that_was_missed_is_contradicted(kind: str) -> None:
    matrix = torch.tensor(spectrum_of(kind, 0.9, np.random.default_rng(4)))
    loop, inputs = affine(matrix), torch.randn(6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    ends = follow(loop, inputs, inputs, iterations=400)
    radius = spectral_radius(loop, ends.state, inputs)
    missed = dataclasses.replace(radius, radius=0.8 * radius.radius, error=0.01 * radius.radius)
    found = contradicted(loop, ends.state, inputs, ends.residual, ends.arrived, missed)
    # In a basis the residual wobbles: over eight steps most of these orbits contract fast enough for the lower radius.
    assert found.any() if kind == "in a basis" else found.all()
    growth, error = further_growth(loop, ends.state, inputs)
    assert ((growth - math.log(0.9)).abs() <= error + 1e-3).all()


@given(st.floats(0.05, 0.98), st.integers(9, 60))
@settings(max_examples=50)
def test_the_decay_of_a_geometric_residual_is_its_factor(factor: float, count: int) -> None:
    residual = (factor ** torch.arange(count, dtype=torch.float64))[:, None]
    decay, rounding = last_decay(residual)
    assert float(decay) == pytest.approx(factor, rel=1e-9)
    assert 0 < float(rounding) <= 4 / 16 / 8


def test_too_few_residuals_say_nothing() -> None:
    assert last_decay(torch.ones(8, 1))[0].isnan().all()
    assert last_decay(torch.full((20, 1), 1e-9))[0].isnan().all()
