"""A forecast from 30 steps by unchecked leaps, which is the forecast in the population's ledger.

``loopscope forecast`` gave this answer when the population was measured. It now checks its leaps by true steps, and takes as
many steps as it needs, so its answers are a different signal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from loopscope.evaluation import answers_right, decisions
from loopscope.forecasts import leaps
from loopscope.forecasts.result import HOLDS, fall
from loopscope.loop import Loop, mask_of, readout
from loopscope.tasks import Split, Task, answers_of
from loopscope.trees import Tree, flatten


@dataclass(frozen=True)
class LeapForecast:
    """The answers after leaps at ascending iterations, as fractions of the problems.

    Args:
        iterations: the iterations. The first is the largest number in training (or 15, if that is smaller).
        right: fraction of right answers at each iteration.
        same: fraction of answers that equal those of the first iteration.
        late: fraction of right answers just before the last iteration. In a cycle they differ from those at the last one.
        seconds: time of the forecast, in seconds.
    """

    iterations: Sequence[int]
    right: Sequence[float]
    same: Sequence[float]
    late: Sequence[float]
    seconds: float

    @property
    def kept(self) -> float:
        """Accuracy at the last iteration over the best on the way; 0 if nothing is ever right."""
        best = max(*self.right, *self.late)
        return self.right[-1] / best if best > 0 else 0.0

    @property
    def keeps(self) -> bool:
        """Whether enough of the accuracy is kept at the last iteration and just before it."""
        best = list(accumulate([*self.right, *self.late], max))[len(self.right) :]
        late = [value / most if most > 0 else 1.0 for value, most in zip(self.late, best, strict=True)]
        return min(self.kept, *late) >= HOLDS

    @property
    def collapse(self) -> float | None:
        """The approximate iteration at which less than half of the best accuracy is left; None if it is not expected."""
        return fall(list(zip(self.iterations, self.right, strict=True)))


@dataclass(frozen=True)
class _Answered:
    """The answers of a state, one row per problem, and the fraction that is right."""

    answers: Int[Tensor, "batch columns"]
    finite: Tensor
    right: float

    def same(self, first: _Answered) -> float:
        """Return the fraction of answers that equal those of another state."""
        return _fraction((self.answers == first.answers).all(1) & self.finite)


def leap_forecast(loop: Loop, task: Task, split: Split, trained_iterations: int, seed: int = 0) -> LeapForecast:
    """Forecast the accuracy of a loop to 480 iterations from 30 steps.

    Args:
        loop: the loop, in evaluation mode. Its readout gives the task's logits.
        task: gives the inputs and the rule for a right answer.
        split: the problems.
        trained_iterations: largest number of iterations in training, whose answers are the first.
        seed: seed of a random first state.
    """
    began = time.perf_counter()
    chosen = answers_of(task)
    with torch.no_grad():
        recalled = loop.encode(task.inputs(split.problems))
        mask = mask_of(loop, recalled)

        def answered(state: Tree) -> _Answered:
            logits = readout(loop, state, recalled)
            # The argmax of NaN logits is always the first one, so a diverged state would seem to keep its answer.
            finite = flatten(state, mask).isfinite().all(1)
            answers = decisions(logits, mask) if chosen is None else chosen(logits)
            right = answers_right(task, logits, split.problems, split.answers) & finite
            return _Answered(answers.reshape(len(answers), -1), finite, _fraction(right))

        landings = leaps(loop, recalled, seed, trained_iterations)
        found = [answered(landing.state) for landing in landings]
        late = [answered(state).right for state in landings[-1].before]
    return LeapForecast(
        [landing.iteration for landing in landings],
        [one.right for one in found],
        [one.same(found[0]) for one in found],
        late,
        time.perf_counter() - began,
    )


def _fraction(which: Tensor) -> float:
    return float(which.double().mean())
