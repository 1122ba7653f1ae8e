"""An orbit as it is run: what every iteration showed, and a bounded number of its states."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.contexts import eval_mode, without_autocast
from loopscope.errors import LoopscopeError
from loopscope.fixed_points.residual import relative_residual, smallest_scale
from loopscope.loop import Loop, mask_of, readout
from loopscope.trees import Tree, flatten, leaves

MOST_STATES = 256
"""States kept per orbit. From there on every second one is dropped, then every second of those, and so on."""
FIRST_STATES = 32
"""The first states, which are most of the way to a fixed point, are never dropped; at most half of those that are kept."""
MOST_BYTES = 8 * 2**20
"""Bytes of the states kept per orbit, of which there are at least ``LEAST_STATES``."""
LEAST_STATES = 8
MOST_READ = 3
"""Iterations whose logits are remembered: those of the answer on the board, and of the ones that it is compared with."""
LONGEST = 20_000
"""Iterations after which an orbit is not continued."""

Answering = Callable[[Tensor], Tensor]
"""Maps the logits of one example to its answer, one whole number per part."""


class Orbit:
    """The orbit of one problem, which grows as it is run.

    Every state can be had again: those that are not kept are computed from the nearest kept state before them.

    Args:
        loop: the loop.
        recalled: its recalled input for one example.
        start: the state at which this orbit begins.
        answering: maps logits to the answer; its changes are counted.
        began: iteration of the first state.

    Example:
        >>> import torch
        >>> from loopscope.loop import FunctionLoop
        >>> halving = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z[:, None])
        >>> orbit = Orbit(halving, torch.ones(1, 1), torch.zeros(1, 1), lambda logits: logits.argmax(-1))
        >>> orbit.run_to(3)
        >>> orbit.end, orbit.state(2), orbit.residual(3)
        (3, tensor([[1.5000]]), 0.1428571492433548)
    """

    def __init__(self, loop: Loop, recalled: Tree, start: Tree, answering: Answering, began: int = 0) -> None:
        self.loop, self.recalled, self.began = loop, recalled, began
        self.last = start
        with torch.no_grad():
            self.mask = mask_of(loop, recalled)
            self._smallest = smallest_scale(start, self.mask)
        self._answering = answering
        self._read: dict[int, Tensor] = {}
        self._residuals, self._changes = array("d"), array("i")
        self._stride, self._kept = 1, {began: start}
        self._answer = answering(self.logits(began))
        size = sum(leaf.numel() * leaf.element_size() for leaf in leaves(start))
        self._most = max(LEAST_STATES, min(MOST_STATES, MOST_BYTES // max(1, size)))
        self._first = min(FIRST_STATES, self._most // 2)

    @property
    def end(self) -> int:
        """The last iteration that has been run."""
        return self.began + len(self._residuals)

    @property
    def broken(self) -> bool:
        """Whether the last state is not finite; such an orbit ends there."""
        return not bool(flatten(self.last, self.mask).isfinite().all())

    def advance(self) -> None:
        """Run one more iteration.

        Raises:
            LoopscopeError: the state is no longer finite, or the orbit is too long.
        """
        if self.end - self.began >= LONGEST:
            raise LoopscopeError(f"the orbit has {LONGEST:,} iterations, the most that the lab runs: start again")
        if self.broken:
            raise LoopscopeError(f"the state is no longer finite at iteration {self.end}: the orbit ends there")
        before, self.last = self.last, self._step(self.last)
        with torch.no_grad():
            point, value = flatten(before, self.mask), flatten(self.last, self.mask)
            residual = float(relative_residual(point, value, self._smallest))
        logits = self._readout(self.last)
        last, self._answer = self._answer, self._answering(logits)
        self._residuals.append(residual)
        self._changes.append(int((last != self._answer).sum()))
        self._remember(self.end, logits)
        self._keep()

    def run_to(self, iteration: int) -> None:
        """Run up to an iteration; nothing is done if the orbit is there already, or cannot be continued."""
        while self.end < iteration and not self.broken:
            self.advance()

    def state(self, iteration: int) -> Tree:
        """Return the state at an iteration from ``began`` to ``end``."""
        if iteration == self.end:
            return self.last
        before = max(kept for kept in self._kept if kept <= iteration)
        state = self._kept[before]
        for _ in range(iteration - before):
            state = self._step(state)
        return state

    def logits(self, iteration: int) -> Float[Tensor, "tokens outputs"]:
        """Return what is read from the state at an iteration, on the CPU; a readout without parts has one."""
        if iteration not in self._read:
            self._remember(iteration, self._readout(self.state(iteration)))
        return self._read[iteration]

    def residual(self, iteration: int) -> float | None:
        """Return the relative residual of the step that led to an iteration; None at the first state."""
        return self._residuals[iteration - self.began - 1] if iteration > self.began else None

    def residuals(self) -> list[tuple[int, float]]:
        """Return every iteration that has been run with its relative residual."""
        return list(enumerate(self._residuals, self.began + 1))

    def last_change(self, iteration: int) -> int:
        """Return the last iteration, up to the given one, whose answer differs from the one before."""
        for place in range(iteration - self.began - 1, -1, -1):
            if self._changes[place]:
                return self.began + place + 1
        return self.began

    def kept(self, most: int) -> list[int]:
        """Return at most ``most`` iterations whose states are kept, denser at the beginning; the last state is included."""
        iterations = sorted({*self._kept, self.end})
        if len(iterations) <= most:
            return iterations
        # From the first to the last place in even steps of the square root: a slow orbit moves most at its beginning.
        places = {round((len(iterations) - 1) * (step / (most - 1)) ** 2) for step in range(most)}
        return [iterations[place] for place in sorted(places)]

    def points(self, iterations: list[int]) -> Float[Tensor, "points n"]:
        """Return the states at some iterations as flat rows, padding set to zero."""
        with torch.no_grad():
            return torch.cat([flatten(self.state(iteration), self.mask) for iteration in iterations])

    def _step(self, state: Tree) -> Tree:
        with eval_mode(self.loop), torch.no_grad(), without_autocast():
            return self.loop.step(state, self.recalled)

    def _readout(self, state: Tree) -> Float[Tensor, "tokens outputs"]:
        with torch.no_grad(), without_autocast():
            logits = readout(self.loop, state, self.recalled)[0].float().cpu()
        return logits.reshape(-1, logits.shape[-1])

    def _remember(self, iteration: int, logits: Float[Tensor, "tokens outputs"]) -> None:
        if len(self._read) >= MOST_READ:
            del self._read[next(iter(self._read))]
        self._read[iteration] = logits

    def _keep(self) -> None:
        passed = self.end - self.began
        if passed > self._first and passed % self._stride:
            return
        self._kept[self.end] = self.last
        while len(self._kept) > self._most:
            self._stride *= 2
            self._kept = {
                one: state
                for one, state in self._kept.items()
                if one - self.began <= self._first or (one - self.began) % self._stride == 0
            }
