"""Large readouts: how many examples are read at once, and after which iterations.

A language model has tens of thousands of logits per token. Reading all of them after every iteration takes longer than the
iterations, and more memory than the model. What measurements need is the answers. So logits are made for a part of the
batch at a time and dropped once the answers are known, and a reading that costs much is made only when the steps before it
have cost more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from loopscope.loop import Loop, readout
from loopscope.trees import Tree, batch_size, join, select

T = TypeVar("T")

TOGETHER = 2**25
"""Logits that are held at once: 128 MB in float32."""
LIGHT = 2**30
"""Arithmetic operations up to which the whole batch is read after every iteration: a tenth of a second or less."""
SHARE = 0.5
"""Arithmetic operations that all readings may take, over those of the steps. Comparing logits costs about as much time again."""


@dataclass(frozen=True)
class ReadingPlan:
    """How a batch is read.

    Attributes:
        examples: most examples whose logits are held at once.
        spacing: iterations between two readings; 1 where every iteration is read.

    Example:
        >>> plan = ReadingPlan(examples=8, spacing=2.5)
        >>> [iteration for iteration in range(1, 11) if plan.is_due(iteration)]
        [1, 3, 5, 8, 10]
    """

    examples: int
    spacing: float = 1.0

    @property
    def every_iteration(self) -> bool:
        """Whether every iteration is read."""
        return self.spacing <= 1

    def is_due(self, iteration: int) -> bool:
        """Return whether the state after an iteration, counted from 1, is read: the first is, and others at equal distances."""
        if self.every_iteration or iteration == 1:
            return True
        return math.floor(iteration / self.spacing) > math.floor((iteration - 1) / self.spacing)

    def in_parts(
        self, loop: Loop, states: Sequence[Tree], recalled: Tree, use: Callable[[slice, Sequence[Tensor]], T]
    ) -> T:
        """Read states part by part, and return what ``use`` makes of the logits, joined over the parts.

        Args:
            loop: the loop.
            states: states of the same examples.
            recalled: their recalled input.
            use: maps (which examples, the logits of each state) to a tree of tensors, batch first.
        """
        batch = batch_size(recalled)
        if batch <= self.examples:
            return use(slice(0, batch), [readout(loop, state, recalled) for state in states])
        found = []
        for begin in range(0, batch, self.examples):
            part = slice(begin, min(begin + self.examples, batch))
            some = select(recalled, part)
            found.append(use(part, [readout(loop, select(state, part), some) for state in states]))
        return join(found)


def plan_readings(loop: Loop, state: Tree, recalled: Tree) -> ReadingPlan:
    """Return how a batch is read: what fits in memory at once, and what the steps pay for.

    The cost is the number of arithmetic operations in matrix products, which is the same on every machine. It takes a step
    and a reading of one example.

    Args:
        loop: the loop.
        state: a state.
        recalled: what ``loop.encode`` returned for the same examples.

    Example:
        >>> import loopscope as ls
        >>> halving = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> plan_readings(halving, torch.ones(4, 2), torch.ones(4, 2)).every_iteration
        True
    """
    one = slice(0, 1)
    first, some = select(state, one), select(recalled, one)
    with torch.no_grad():
        reading, logits = _counted(lambda: readout(loop, first, some))
        examples = _fitting(logits)
        if reading * batch_size(state) <= LIGHT:
            return ReadingPlan(examples)
        step, _ = _counted(lambda: loop.step(first, some))
    return ReadingPlan(examples, reading / (SHARE * step) if step else math.inf)


def examples_at_once(loop: Loop, state: Tree, recalled: Tree) -> int:
    """Return how many examples are read at once; reads the first one."""
    one = slice(0, 1)
    return _fitting(readout(loop, select(state, one), select(recalled, one)))


def read_some(loop: Loop, state: Tree, recalled: Tree) -> Tensor:
    """Return the logits of the first examples, as many as are read at once, without a graph."""
    with torch.no_grad():
        few = slice(0, examples_at_once(loop, state, recalled))
        return readout(loop, select(state, few), select(recalled, few))


def _fitting(logits: Tensor) -> int:
    """Return how many examples fit, from the logits of one; all of them where these are not logits."""
    return max(1, TOGETHER // max(1, logits.numel())) if isinstance(logits, Tensor) else TOGETHER


class _Together(ModuleTracker):
    """Counts the operations of all modules together, without hooks on modules.

    The hooks fail where a module is given a view of a parameter under ``no_grad``, as a learned first state is.
    """

    def __enter__(self) -> _Together:
        self.parents = {"Global"}
        return self

    def __exit__(self, *error: object) -> None:
        self.parents = set()


def _counted(action: Callable[[], T]) -> tuple[int, T]:
    """Return how many arithmetic operations an action takes, and its result."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Together()
    with counter:
        result = action()
    return int(counter.get_total_flops()), result
