"""A loop whose step is told the iteration, or draws random numbers, as a loop whose state carries a counter.

This is the one form in which all kinds of loops are followed. Random numbers are those of one draw: the generator of an
iteration is seeded by the draw and the iteration, so that two orbits of equal batch size see the same noise (common random
numbers), and the step can be evaluated again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.kinds.kind import Wants, wants_of
from loopscope.loop import AnswersPer, Loop, answers_per, mask_of, readout, start_from
from loopscope.trees import Tree, batch_size, device_of


class Timed(NamedTuple):
    """The state of a loop with the number of iterations that led to it.

    Attributes:
        state: the state of the loop.
        iteration: the iterations done, the same for all examples.
    """

    state: Tree
    iteration: Int[Tensor, "batch"]


@dataclass(frozen=True)
class TimedLoop:
    """A loop with its clock in the state, under one draw of its random numbers.

    Attributes:
        loop: a loop whose step takes ``iteration``, ``generator`` or both.
        wants: which of them.
        seed: of the random numbers.
        draw: which of the independent draws that belong to the seed.
    """

    loop: Loop
    wants: Wants
    seed: int = 0
    draw: int = 0

    def encode(self, inputs: Tree) -> Tree:
        """Return the loop's recalled input."""
        return self.loop.encode(inputs)

    def start(self, recalled: Tree, generator: torch.Generator | None = None) -> Timed:
        """Return the loop's first state, at iteration 0."""
        state = start_from(self.loop, recalled, generator)
        return Timed(state, torch.zeros(batch_size(state), dtype=torch.long, device=device_of(state)))

    def step(self, state: Timed, recalled: Tree) -> Timed:
        """Return the next state.

        Raises:
            LoopscopeError: the examples are at different iterations, or the step fails at an iteration after the first two.
        """
        now = _common(state.iteration)
        generator = noise(self.seed, self.draw, now, device_of(state)) if self.wants.generator else None
        after = step_at(self.loop, self.wants, state.state, recalled, now, generator)
        return Timed(after, state.iteration + 1)

    def read(self, state: Timed, recalled: Tree) -> Tensor:
        """Return the loop's prediction."""
        return readout(self.loop, state.state, recalled)

    def mask(self, recalled: Tree) -> Bool[Tensor, "batch *tokens"] | None:
        """Return the loop's mask of real tokens, or None where all tokens are real."""
        return mask_of(self.loop, recalled)

    @property
    def answers_per(self) -> AnswersPer:
        """What an answer of the loop belongs to."""
        return answers_per(self.loop)

    def gate(self, state: Timed, recalled: Tree) -> Tensor | None:
        """Return what a learned gate of the loop says (see `loopscope.exits`), or None if the loop has none."""
        gate = getattr(self.loop, "gate", None)
        return None if gate is None else gate(state.state, recalled)

    def redrawn(self, draw: int) -> TimedLoop:
        """Return the same loop under another draw of its random numbers."""
        return replace(self, draw=draw)


def step_at(
    loop: Loop, wants: Wants, state: Tree, recalled: Tree, iteration: int, generator: torch.Generator | None
) -> Tree:
    """Return the next state of a loop, giving its step what it asks for.

    Raises:
        LoopscopeError: the step fails at an iteration after the first two.
    """
    others: dict[str, Any] = {}
    if wants.iteration:
        others["iteration"] = iteration
    if wants.generator:
        others["generator"] = generator
    try:
        return loop.step(state, recalled, **others)
    except Exception as error:
        if iteration < _TRIED or isinstance(error, LoopscopeError):
            raise
        said = " ".join(str(error).split())[:160]
        raise LoopscopeError(
            f"the step fails at iteration {iteration}, counted from 0 ({type(error).__name__}: {said}): ask for at most "
            f"{iteration} iterations"
        ) from error


_TRIED = 2
"""What is wrong with the first iterations is found by the checks that every loop passes."""


def timed(loop: Loop, seed: int = 0) -> Loop:
    """Return a loop with its clock in the state, where its step asks for the iteration or a generator; else the loop itself."""
    wants = wants_of(loop)
    return TimedLoop(loop, wants, seed) if wants else loop


def noise(seed: int, draw: int, iteration: int, device: torch.device) -> torch.Generator:
    """Return the generator of one iteration of one draw."""
    # PyTorch's generator on the CPU uses 32 bits of its seed, so the three numbers are mixed into all bits.
    mixed = np.random.SeedSequence((seed % 2**64, draw, iteration)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(mixed[0]) % 2**63)


def _common(iteration: Int[Tensor, "batch"]) -> int:
    first, last = (int(value) for value in iteration.aminmax())
    if first != last:
        raise LoopscopeError(
            f"the examples are at different iterations, {first} to {last}, expected one iteration for the whole batch"
        )
    return first
