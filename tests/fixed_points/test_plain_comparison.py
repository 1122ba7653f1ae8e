"""Whether a solution is the fixed point of plain iteration, on loops whose fixed points and basins are known."""

import pytest
import torch
from known_fixed_points import F64, from_zero

import loopscope as ls
from loopscope.fixed_points.plain_comparison import compare_with_plain
from loopscope.loop import FunctionLoop, iterate

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
        assert f"{181 - sum(same)} arrived at a fixed point that plain iteration does not reach" in found.message
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
