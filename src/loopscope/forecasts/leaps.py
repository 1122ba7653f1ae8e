"""Leaps: where a loop will be after hundreds of iterations, from a few dozen steps.

What is fast has settled after a few steps; a few slow modes remain, and each change of the state follows from the one
before by a small matrix. The matrix is fitted per orbit to the last few changes, and its powers are summed. A few true
steps after each leap let the fast parts settle at the new place, and give the changes for the next leap. Integrators of
stiff systems call this projective integration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from loopscope.checks import prepare_recalled
from loopscope.errors import LoopscopeError, check_count
from loopscope.forecasts.fit import Fit, fit, surprise
from loopscope.kinds.history import remembers
from loopscope.loop import Loop, mask_of
from loopscope.stability.starts import moved
from loopscope.trees import Tree, flatten

LANDINGS = (15, 48, 152, 480)
"""The iterations that `leaps` returns: those before the first leap, then each leap's, about three times as many."""
SETTLING = 5
"""True steps after each leap."""
BELIEVED = 0.1
"""Modes may grow where the last change is foreseen by those before it to within this share of itself."""
WATCHED = 3
"""The last of these steps whose states are read: in a cycle, one state says nothing of the others."""


@dataclass(frozen=True)
class Landing:
    """A state far ahead.

    Args:
        iteration: the iterations that it stands for.
        state: the state.
        before: after a leap, the states of the iterations just before, in order.

    Example:
        >>> import loopscope as ls
        >>> halving = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> [landing.iteration for landing in ls.leaps(halving, torch.ones(1, 1))]  # landings
        [15, 48, 152, 480]
    """

    iteration: int
    state: Tree
    before: Sequence[Tree] = ()


@dataclass(frozen=True)
class Leap:
    """One leap and the true steps that follow it.

    Args:
        start: iteration at which it starts.
        states: the states whose changes were fitted, the last one at ``start``.
        fit: the fit.
        jump: iterations that the fit stands for.
        settled: where it landed, and the states of the true steps from there.
    """

    start: int
    states: Sequence[Tree]
    fit: Fit
    jump: int
    settled: Sequence[Tree]

    @property
    def end(self) -> int:
        """The iteration that the last state stands for."""
        return self.start + self.jump + len(self.settled) - 1

    @property
    def landing(self) -> Landing:
        """The last state, and the watched ones before it."""
        return Landing(self.end, self.settled[-1], self.settled[-WATCHED:-1])

    def at(self, iteration: int) -> Tree:
        """Return the state at an iteration after the start, as the fit has it, without a true step."""
        return _moved(self.states[-1], self.fit, iteration - self.start)


def leap(states: Sequence[Tree], iterations: int, mask: Bool[Tensor, "batch *tokens"] | None = None) -> Tree:
    """Return the state ``iterations`` further on, if every change is a matrix times the one before.

    Modes that grow are held to their present pace.

    Args:
        states: the last states of each orbit in order, at least three; more tell more modes apart.
        iterations: how far to leap, at least 1.
        mask: true where a token is real; padding has no part in the fit, and stays where it is.

    Raises:
        LoopscopeError: there are fewer than three states, or no iterations.

    Example:
        >>> orbit = [torch.tensor([[1 - 0.5**t]]) for t in range(3)]
        >>> leap(orbit, 30)
        tensor([[1.]])
    """
    check_count(iterations=iterations)
    if len(states) < 3:
        raise LoopscopeError(f"got {len(states)} states, expected at least 3: two changes are needed to fit a mode")
    return _moved(states[-1], fit(states, mask).held(), iterations)


def _moved(state: Tree, fitted: Fit, iterations: int) -> Tree:
    return moved(state, fitted.further(iterations).to(flatten(state)))


def leaps(loop: Loop, recalled: Tree, seed: int = 0, earlier: int | None = None) -> list[Landing]:
    """Return the states after 15 iterations and, by leaps, after 48, 152 and 480, without a graph.

    Nothing checks them: `forecast` does. Modes that grow are held to their present pace. Costs 30 steps, and those of at most
    two inputs that check the loop (see `loopscope.checks.prepare`).

    Args:
        loop: any loop.
        recalled: its recalled input.
        seed: of a random first state.
        earlier: an iteration before 15 whose state is returned too, as the first.

    Raises:
        LoopscopeError: the state carries a counter, which a leap would leave behind, or is not in float32 or float64, or
            the step is random, mixes examples, or changes the shapes or the precision of its state, or a mask fits no part
            of the state.

    Example:
        >>> import loopscope as ls
        >>> halving = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> last = ls.leaps(halving, torch.ones(1, 1)).pop()
        >>> last.iteration, last.state.item()
        (480, 2.0)
    """
    with torch.no_grad():
        start, second = first_states(loop, recalled, seed)
        mask = mask_of(loop, recalled)
        states = run(loop, recalled, [start, second], LANDINGS[0] - 1)
        seen = [iteration for iteration in (earlier, LANDINGS[0]) if iteration and iteration <= LANDINGS[0]]
        landings = [Landing(iteration, states[iteration]) for iteration in dict.fromkeys(seen)]
        for before, after in pairwise(LANDINGS):
            landed = leap(states[-SETTLING - 1 :], after - before - SETTLING, mask)
            states = run(loop, recalled, [landed], SETTLING)
            landings.append(Landing(after, states[-1], states[-WATCHED:-1]))
    return landings


def first_states(loop: Loop, recalled: Tree, seed: int) -> tuple[Tree, Tree]:
    """Return the first state and the next one, of a loop that can leap; the loop is checked on two examples.

    Raises:
        LoopscopeError: see `leaps`.
    """
    ready = prepare_recalled(loop, recalled, seed=seed)
    if ready.time_dependent:
        raise LoopscopeError(
            "the state carries a counter, which a leap would leave behind: leaps are for steps that depend on the "
            "state and the input alone; iterate this loop as far as you want to know it"
        )
    if remembers(loop, ready.start, recalled):
        raise LoopscopeError(
            "the state carries a history, which a leap would leave out: leaps are for readouts of the last state; iterate this loop "
            "as far as you want to know it"
        )
    return ready.start, loop.step(ready.start, recalled)


def run(loop: Loop, recalled: Tree, states: Sequence[Tree], steps: int) -> list[Tree]:
    """Return the states followed by those of ``steps`` more true steps."""
    states = list(states)
    for _ in range(steps):
        states.append(loop.step(states[-1], recalled))
    return states


def leap_through(
    loop: Loop,
    recalled: Tree,
    states: Sequence[Tree],
    start: int,
    landings: Iterable[int],
    mask: Bool[Tensor, "batch *tokens"] | None = None,
) -> list[Leap]:
    """Return leaps from one landing to the next, each with ``SETTLING`` true steps at its end.

    Modes that grow go on growing, where past changes foresee the last one.

    Args:
        loop: the loop.
        recalled: its recalled input.
        states: the last states of the orbits.
        start: iteration of the last one.
        landings: the iterations to land at, rising, each more than ``SETTLING`` after the one before.
        mask: true where a token is real.
    """
    made: list[Leap] = []
    for end in landings:
        # A bounded orbit that wanders seems to grow for a few steps: what its own past does not foresee is not let grow.
        fitted, jump = fit(states, mask).held(~(surprise(states, mask) <= BELIEVED)), end - start - SETTLING
        settled = run(loop, recalled, [_moved(states[-1], fitted, jump)], SETTLING)
        made.append(Leap(start, states, fitted, jump, settled))
        states, start = settled, end
    return made
