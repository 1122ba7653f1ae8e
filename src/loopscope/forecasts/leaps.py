"""Leaps: the state of a loop after hundreds of iterations, extrapolated from a few dozen steps.

Fast modes settle within a few steps. Then a few slow modes remain, and each change of the state is a small matrix times the
previous change. The matrix is fitted per orbit to the last few changes, and its powers are summed. After each leap, a few
true steps let the fast modes settle at the new place and give the changes for the next leap. For stiff differential
equations, this method is called projective integration.
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
"""The iterations at which `leaps` returns states. The first is reached by true steps; each leap about triples it."""
SETTLING = 5
"""Number of true steps after each leap."""
BELIEVED = 0.1
"""Modes are allowed to grow if the earlier changes predict the last one to within this fraction of itself."""
WATCHED = 3
"""Number of last states after a leap whose answers are read. In a cycle, a single state would not be enough."""


@dataclass(frozen=True)
class Landing:
    """A state reached by a leap.

    Args:
        iteration: the iteration that the state stands for.
        state: the state.
        before: the states of the iterations just before it, in order. Empty if no leap was made.

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
        jump: number of iterations that are extrapolated.
        settled: the state after the leap, and those of the true steps that follow.
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
        """The last state, with the watched states before it."""
        return Landing(self.end, self.settled[-1], self.settled[-WATCHED:-1])

    def at(self, iteration: int) -> Tree:
        """Return the state at an iteration after the start according to the fit, without true steps."""
        return _moved(self.states[-1], self.fit, iteration - self.start)


def leap(states: Sequence[Tree], iterations: int, mask: Bool[Tensor, "batch *tokens"] | None = None) -> Tree:
    """Extrapolate the state by ``iterations``, assuming that every change is a matrix times the previous one.

    Modes that grow are held to their present pace.

    Args:
        states: the last states of each orbit in order, at least three. More states resolve more modes.
        iterations: how far to leap, at least 1.
        mask: true where a token is real. Padding is left out of the fit and does not change.

    Raises:
        LoopscopeError: there are fewer than three states, or ``iterations`` is below 1.

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

    The leaps are not checked, unlike those of `forecast`. Modes that grow go on at their present pace, without further growth.
    The cost is 30 steps, plus a few steps of at most two inputs to check the loop (see `loopscope.checks.prepare`).

    Args:
        loop: any loop.
        recalled: its recalled input.
        seed: seed of a random first state.
        earlier: an iteration before 15 whose state is also returned, as the first item.

    Raises:
        LoopscopeError: the state carries a counter, which a leap cannot advance, or is not in float32 or float64; the step is
            random, mixes examples, or changes the shapes or the precision of its state; or a mask fits no part of the state.

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
    """Return the first two states of a loop, after checking on two examples that it can leap.

    Raises:
        LoopscopeError: the loop cannot leap; see `leaps`.
    """
    ready = prepare_recalled(loop, recalled, seed=seed)
    if ready.time_dependent:
        raise LoopscopeError(
            "the state carries a counter, which a leap cannot advance: leaps need steps that depend on the state and the "
            "input alone; run this loop to the iteration of interest instead"
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
    noise: float = 0.0,
) -> list[Leap]:
    """Return leaps from one landing to the next, each with ``SETTLING`` true steps at its end.

    Growing modes continue to grow if the earlier changes predict the last one.

    Args:
        loop: the loop.
        recalled: its recalled input.
        states: the last states of the orbits.
        start: iteration of the last of these states.
        landings: the iterations at which leaps end, ascending and more than ``SETTLING`` apart.
        mask: true where a token is real.
        noise: relative change up to which a state moves by rounding alone; see ``fit``.
    """
    made: list[Leap] = []
    for end in landings:
        # A bounded orbit that wanders may seem to grow for a few steps. Growth is trusted only if its past predicts it.
        grows = surprise(states, mask, noise) <= BELIEVED
        fitted, jump = fit(states, mask, noise).held(~grows), end - start - SETTLING
        settled = run(loop, recalled, [_moved(states[-1], fitted, jump)], SETTLING)
        made.append(Leap(start, states, fitted, jump, settled))
        states, start = settled, end
    return made
