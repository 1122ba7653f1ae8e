"""Oscillations that die out, of linear loops whose modes are known."""

from __future__ import annotations

import cmath

import pytest
import torch

from loopscope.forecasts.fit import fit
from loopscope.forecasts.oscillation import dies_out


def dying(rate: complex, size: float = 1.0, iterations: int = 400) -> bool:
    """Return whether an orbit that turns by ``rate`` around a point of length one has an oscillation that dies out."""
    turned = [size * rate**t for t in range(6)]
    orbit = [torch.tensor([[1 + one.real, one.imag]], dtype=torch.float64) for one in map(complex, turned)]
    length = torch.linalg.vector_norm(orbit[-1], dim=1)
    (found,) = dies_out(fit(orbit), length, iterations, visible=1e-3).tolist()
    return found


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (cmath.rect(0.95, 1.0), True),
        (complex(-0.95), True),
        (complex(0.95), False),  # creeps
        (cmath.rect(0.95, 0.02), False),  # has less than half a turn left
        (cmath.rect(1.0, 1.0), False),  # goes on
        (cmath.rect(0.999, 1.0), False),  # has two thirds of its amplitude left after 400 iterations
        (cmath.rect(1.05, 1.0), False),  # grows
    ],
)
def test_an_oscillation_dies_out_if_it_turns_and_decays(rate, expected):
    assert dying(rate) == expected


def test_more_iterations_see_a_slower_oscillation_die_out():
    rate = cmath.rect(0.999, 1.0)
    assert [dying(rate, iterations=count) for count in (600, 800)] == [False, True]


def test_an_oscillation_that_nobody_sees_does_not_count():
    assert [dying(cmath.rect(0.9, 1.0), size) for size in (1e-1, 1e-4)] == [True, False]


def test_the_lengths_of_modes_are_those_of_their_parts_of_the_last_change():
    rates = torch.tensor([0.9, -0.5], dtype=torch.float64)
    orbit = [(rates**t).unsqueeze(0) for t in range(6)]
    found = fit(orbit)
    order = found.rates[0].abs().argsort(descending=True)
    change = (rates**5 - rates**4).abs()
    torch.testing.assert_close(found.lengths()[0, order][: len(change)], change, rtol=1e-6, atol=1e-9)
