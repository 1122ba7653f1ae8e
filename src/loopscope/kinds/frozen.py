"""One iteration of a time-dependent loop as an autonomous loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor

from loopscope.errors import check_count_or_zero
from loopscope.kinds.derived import derived
from loopscope.kinds.kind import Wants, wants_of
from loopscope.kinds.timed import step_at, timed
from loopscope.loop import FunctionLoop, Loop, iterate, mask_of, readout, start_from
from loopscope.trees import Tree, tree_map


@dataclass(frozen=True)
class HeldLoop:
    """A loop whose step leaves the counters in the state as they are: the step of one iteration, whichever the state is at.

    Attributes:
        loop: a loop whose step asks for nothing besides the state and the recalled input.
    """

    loop: Loop

    def encode(self, inputs: Tree) -> Tree:
        """Return the loop's recalled input."""
        return self.loop.encode(inputs)

    def start(self, recalled: Tree, generator: torch.Generator | None = None) -> Tree:
        """Return the loop's first state."""
        return start_from(self.loop, recalled, generator)

    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the next state, with the counters of this one."""
        return with_counters_of(state, self.loop.step(state, recalled))

    def read(self, state: Tree, recalled: Tree) -> Tensor:
        """Return the loop's prediction."""
        return readout(self.loop, state, recalled)

    def mask(self, recalled: Tree) -> Bool[Tensor, "batch *tokens"] | None:
        """Return the loop's mask of real tokens, or None where all tokens are real."""
        return mask_of(self.loop, recalled)


def with_counters_of(before: Tree, after: Tree) -> Tree:
    """Return the floating tensors of one state with all other leaves of another.

    Example:
        >>> with_counters_of((torch.zeros(1), torch.tensor([3])), (torch.ones(1), torch.tensor([4])))
        (tensor([1.]), tensor([3]))
    """
    return tree_map(lambda old, new: new if new.is_floating_point() else old, before, after)


def freeze(loop: Loop, iteration: int) -> FunctionLoop:
    """Return one iteration of a time-dependent loop as an autonomous loop.

    Its step is the one that the loop takes after ``iteration`` iterations, again and again. Its first state is the one that the
    loop has then. A loop that draws random numbers stays stochastic. An autonomous loop keeps its step, and starts later.

    Args:
        loop: a loop whose step takes ``iteration``, or whose state carries a counter.
        iteration: the iterations done before; 0 freezes the first one.

    Raises:
        LoopscopeError: the iteration is not a whole number of at least 0.

    Example:
        >>> import torch, loopscope as ls
        >>> slowing = ls.FunctionLoop(
        ...     encode=lambda x: x,
        ...     start=torch.zeros_like,
        ...     step=lambda z, e, iteration: z * (1 - 1 / (iteration + 2)) + e,
        ...     read=lambda z: z,
        ... )
        >>> frozen = ls.freeze(slowing, iteration=8)
        >>> ls.solve(frozen, torch.ones(1, 2), tolerance=1e-6).state.round(decimals=2)
        tensor([[10., 10.]])
    """
    check_count_or_zero(iteration=iteration)
    wants = wants_of(loop)

    def step(state: Tree, recalled: Tree, generator: torch.Generator | None = None) -> Tree:
        return with_counters_of(state, step_at(loop, wants, state, recalled, iteration, generator))

    def start(recalled: Tree, generator: torch.Generator | None = None) -> Tree:
        running = timed(loop)
        state = iterate(running, start_from(running, recalled, generator), recalled, iteration)
        return state.state if wants else state

    return derived(loop, start=start, step=Wants(generator=wants.generator).signed(step), read=partial(readout, loop))
