"""Relative residuals at any scale, against float64, and what a state's precision can resolve."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from known_fixed_points import F64, SOLVERS, from_zero, generator

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.fixed_points.residual import ZERO, check_precision, relative_residual, smallest_scale, state_dtype

SCALES = [3e19, 1.0, 1e-9, 1e-12, 1e-25, 1e33]


@given(
    exponents=st.lists(st.integers(-37, 37), min_size=1, max_size=5),
    change=st.floats(-1, 1),
    seed=st.integers(0, 10**6),
)
def test_a_residual_is_that_of_float64_whatever_the_scale(exponents, change, seed):
    scale = torch.tensor([10.0**exponent for exponent in exponents], dtype=F64)[:, None]
    point, direction = torch.randn(2, len(exponents), 7, generator=generator(seed), dtype=F64)
    point, value = (point * scale).float(), ((point + change * direction) * scale).float()
    norms = [part.double().norm(dim=1) for part in (value.double() - point.double(), point, value)]
    expected = norms[0] / torch.maximum(norms[1], norms[2])
    found = relative_residual(point, value, torch.zeros(len(exponents)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-7)


def test_special_values():
    zero, nan, inf, one = (torch.full((1, 2), number) for number in (0.0, math.nan, math.inf, 1.0))
    none = torch.zeros(1)
    assert relative_residual(zero, zero, none) == 0
    assert relative_residual(zero, 1e-30 * one, none) == 1
    assert relative_residual(one, zero, none) == 1
    for point, value in ((one, nan), (nan, one), (one, inf), (inf, inf)):
        assert relative_residual(point, value, none) == math.inf
    # Of a state that is as good as zero, relative to the norm that counts as zero.
    assert relative_residual(one, zero, torch.tensor([100.0])) == pytest.approx(math.sqrt(2) / 100)


def test_what_counts_as_zero_is_relative_to_the_first_state():
    start = {"a": torch.tensor([[3e25, 0.0], [3e-25, 0.0]]), "b": torch.tensor([[4e25], [4e-25]])}
    torch.testing.assert_close(smallest_scale(start, None), ZERO * torch.tensor([5e25, 5e-25]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_loops_at_any_scale_are_solved(scale, solver):
    """z <- z / 2 + r s from zero: states of 3e19 were called diverged, and one of 1e-12 arrived after one evaluation."""
    inputs = {"u": scale * torch.randn(3, 20, generator=generator())}
    loop = from_zero(lambda z, e: 0.5 * z + e["u"])
    found = ls.solve(loop, inputs, solver=SOLVERS[solver])
    assert found.arrived.all(), str(found)
    assert ((found.state - 2 * inputs["u"]) / scale).norm(dim=1).max() <= 2e-4 * (2 * inputs["u"] / scale).norm(
        dim=1
    ).max()
    one = ls.solve(loop, {"u": inputs["u"] / scale}, solver=SOLVERS[solver])
    assert (found.iterations - one.iterations).abs().max() <= 1


@pytest.mark.parametrize("scale", SCALES)
def test_an_orbit_that_dies_out_arrives_at_zero(scale):
    loop = ls.FunctionLoop(encode=lambda x: x, start=torch.clone, step=lambda z, e: 0.5 * z, read=lambda z: z)
    found = ls.solve(loop, torch.full((1, 4), scale))
    assert found.arrived.all()
    # The norm falls to ZERO of the first, and then by the tolerance.
    assert int(found.iterations) == pytest.approx(math.log2(0.5 / (ZERO * 1e-4)) + 1, abs=2)


def test_the_precision_of_a_state():
    single, double = torch.zeros(1, 2), torch.zeros(1, 2, dtype=F64)
    assert state_dtype([single, double]) == torch.float32
    assert state_dtype({"z": double, "count": torch.zeros(1, dtype=torch.long)}) == F64
    check_precision(double, 1e-15)
    check_precision(single, 2e-7)
    with pytest.raises(
        LoopscopeError, match=r"at least 1\.2e-07, the rounding of the state; convert .* with \.double\(\)"
    ):
        check_precision([single, double], 1e-8)
    with pytest.raises(LoopscopeError, match=r"at least 2\.2e-16, the rounding of the state$"):
        check_precision(double, 1e-17)
    for bad, message in (
        (torch.zeros(1, 2, dtype=torch.complex64), "real numbers"),
        (torch.zeros(1, 2, dtype=torch.float16), "float16"),
        (torch.zeros(1, 2, dtype=torch.long), "no floating tensor"),
    ):
        with pytest.raises(LoopscopeError, match=message):
            state_dtype(bad)
