"""The form in which a loop is examined, and what kind it is found to be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from loopscope.checks import PROBED, Prepared, check_is_loop, prepare
from loopscope.kinds import Kind, TimedLoop, timed
from loopscope.kinds.derived import derived
from loopscope.kinds.history import remembers
from loopscope.kinds.timed import noise, step_at
from loopscope.loop import Loop, readout
from loopscope.stability.nonautonomous.results import KindResult
from loopscope.trees import Tree, device_of, flatten, has_clock, select

PROBED_ITERATIONS = 32
"""Iterations over which two draws are compared to tell whether the noise is zero."""

NO_FIXED_POINT = (
    "fixed points, the spectral radius there, basins and gradients through a fixed point are not defined; answers kept, swaps at "
    "an iteration and exponents along the orbit are measured instead"
)
NO_FIXED_POINT_OF_NOISE = f"{NO_FIXED_POINT}, under common random numbers, and the size of the noise"
SILENT = "its step takes a generator; the noise is 0, so the loop is examined as an autonomous one"


@dataclass(frozen=True)
class View:
    """A loop in the form in which it is followed.

    Attributes:
        loop: the loop, its clock in the state.
        kind: what kind it is.
        ready: its recalled input and first states.
    """

    loop: Loop
    kind: KindResult
    ready: Prepared


def view_of(loop: Loop, inputs: Tree, seed: int) -> View:
    """Return the form in which a loop is followed; refuse what cannot be measured (see `loopscope.checks.prepare`).

    Args:
        loop: any loop.
        inputs: what ``loop.encode`` takes, batch first.
        seed: of a random start and of the random numbers of a step.
    """
    check_is_loop(loop)
    shown = timed(loop, seed)
    ready = prepare(shown, inputs, seed=seed)
    kind = _kind_of(shown, ready)
    if kind.name is Kind.STOCHASTIC and is_silent(shown, ready.start, ready.recalled):
        shown, kind = without_noise(shown), replace(kind, told_by=SILENT, undefined="")
        ready = prepare(shown, inputs, seed=seed)
    return View(shown, replace(kind, reads_history=remembers(shown, ready.start, ready.recalled)), ready)


def _kind_of(loop: Loop, ready: Prepared) -> KindResult:
    if not isinstance(loop, TimedLoop):
        counts = KindResult(Kind.TIME_DEPENDENT, "the state carries a counter", NO_FIXED_POINT)
        return counts if ready.time_dependent else KindResult()
    name = Kind.of(changes_over_time=loop.wants.iteration or _has_counter(loop, ready), is_random=loop.wants.generator)
    asked = [*(["iteration"] if loop.wants.iteration else []), *(["a generator"] if loop.wants.generator else [])]
    undefined = NO_FIXED_POINT_OF_NOISE if name.is_random else NO_FIXED_POINT
    return KindResult(name, f"its step takes {' and '.join(asked)}", undefined)


def is_silent(loop: Loop, start: Tree, recalled: Tree) -> bool:
    """Return whether two draws of the noise give the same orbits, bit for bit, for the first iterations of two examples."""
    assert isinstance(loop, TimedLoop)
    few = slice(0, PROBED)
    recalled, one = select(recalled, few), select(start, few)
    other, redrawn = one, loop.redrawn(loop.draw + 1)
    with torch.no_grad():
        for _ in range(PROBED_ITERATIONS):
            one, other = loop.step(one, recalled), redrawn.step(other, recalled)
            if not torch.equal(flatten(one), flatten(other)):
                return False
    return True


def without_noise(loop: Loop) -> Loop:
    """Return a stochastic loop whose noise is zero as the autonomous loop that it is."""
    assert isinstance(loop, TimedLoop)
    inner, wants, seed = loop.loop, loop.wants, loop.seed

    def step(state: Tree, recalled: Tree) -> Tree:
        return step_at(inner, wants, state, recalled, 0, noise(seed, 0, 0, device_of(state)))

    return derived(inner, start=inner.start, step=step, read=lambda state, recalled: readout(inner, state, recalled))


def _has_counter(loop: TimedLoop, ready: Prepared) -> bool:
    one = slice(0, 1)
    recalled, first = select(ready.recalled, one), select(ready.start, one)
    with torch.no_grad():
        second = loop.step(first, recalled)
        third = loop.step(second, recalled)
    return has_clock(first.state, second.state) or has_clock(second.state, third.state)
