"""A forecast: will a loop keep its answers for hundreds of iterations? From thirty steps, by leaps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from loopscope.checks import check_is_loop, check_read
from loopscope.contexts import eval_mode, without_autocast
from loopscope.errors import LoopscopeError, check_count, check_positive
from loopscope.evaluation import decisions
from loopscope.loop import Loop, mask_of, readout
from loopscope.stability.leaps import LANDINGS, Landing, leaps
from loopscope.stability.orbits.trace import Answers, predictions
from loopscope.stability.targets import Targets, check_targets, rule_of
from loopscope.trees import Tree, batch_size, device_of, flatten

HOLDS = 0.9
"""A loop holds if at least this fraction of its best accuracy is left; without targets, if as many answers are the same."""
HALF = 0.5
"""It has collapsed where less than this fraction is left."""


@dataclass(frozen=True)
class Point:
    """What is expected at one iteration. A state that is not finite has no answer: neither the same nor right.

    Args:
        iteration: the iteration.
        leapt: whether a leap led there; otherwise the loop was run.
        same: fraction of inputs whose answer is that of the first point.
        right: fraction of inputs whose answer is right; None where no targets were given.
    """

    iteration: int
    leapt: bool
    same: float
    right: float | None


@dataclass(frozen=True)
class Forecast:
    """Points at rising iterations, the first one where training ended (or at 15, if that is earlier).

    Args:
        points: the points.
        inputs: how many inputs they are fractions of.
        seconds: time that it took.
        late: the iterations just before the last point, where a cycle has other answers.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> forecast = ls.forecast(loop, torch.eye(4))
        >>> [point.iteration for point in forecast.points], forecast.kept, forecast.keeps
        ([15, 48, 152, 480], 1.0, True)
    """

    points: list[Point]
    inputs: int
    seconds: float
    late: Sequence[Point] = ()

    @property
    def kept(self) -> float:
        """Accuracy at the last point over the best on the way (0 where none is right); without targets, what is the same."""
        last, right = self.points[-1], self._right
        if last.right is None or right is None:
            return last.same
        return last.right / max(right) if max(right) > 0 else 0.0

    @property
    def keeps(self) -> bool:
        """Whether enough of the answers is kept to call that holding, at the end and just before it."""
        return min([self.kept, *self._kept_on_the_way[len(self.points) :]]) >= HOLDS

    @property
    def collapse(self) -> float | None:
        """About the iteration at which less than half of the best accuracy is left; None where that is not expected."""
        return fall([(point.iteration, point.right) for point in self.points if point.right is not None])

    @property
    def dip(self) -> tuple[int, float] | None:
        """Where least is kept on the way, and how much of the best before; None where that is enough, or is the end."""
        kept = self._kept_on_the_way
        lowest = min(range(len(kept)), key=kept.__getitem__)
        if kept[lowest] >= HOLDS or lowest == len(self.points) - 1:
            return None
        return self._way[lowest].iteration, kept[lowest]

    @property
    def _way(self) -> list[Point]:
        # The end before what led to it: where both are as low, the end is what is said.
        return [*self.points, *self.late]

    @property
    def _kept_on_the_way(self) -> list[float]:
        """What is kept at each point of the way, of the best before it; 1 as long as there is nothing to keep."""
        values = [point.same if point.right is None else point.right for point in self._way]
        return [value / best if best else 1.0 for value, best in zip(values, accumulate(values, max), strict=True)]

    @property
    def _right(self) -> list[float] | None:
        known = [point.right for point in self._way if point.right is not None]
        return known or None

    def __str__(self) -> str:
        if self.kept >= HOLDS and self.dip:
            iteration, kept = self.dip
            return f"{self._end}, but {100 * kept:.0f}% at {iteration}: the answer depends on when one stops"
        return self._end

    @property
    def _end(self) -> str:
        last = self.points[-1].iteration
        if self._right is None:
            end = "will" if self.keeps else "will not"
            first = self.points[0].iteration
            return f"{end} keep the answers of iteration {first} to {last} iterations: {100 * self.kept:.0f}% are the same there"
        if max(self._right) == 0:
            return "has no right answers to keep"
        left = f"{100 * self.kept:.0f}% of its best accuracy is left there"
        if self.keeps:
            return f"will keep its answers to {last} iterations: {left}"
        if self.kept >= HOLDS:
            return f"will not keep its answers to {last} iterations: {left}"
        when = f", and fall below half of its best after about {self.collapse:.0f}" if self.collapse else ""
        return f"will lose answers by {last} iterations: {left}{when}"


def fall(points: Sequence[tuple[int, float]]) -> float | None:
    """Return where the accuracy falls below half of its best: the geometric mean of the points around; None if never.

    Args:
        points: iterations, rising, and the accuracy at each.
    """
    best = 0.0
    for (before, right), (after, value) in pairwise(points):
        best = max(best, right)
        if value < HALF * best:
            return math.sqrt(before * after)
    return None


def _answers(logits: Tensor, real: Tensor | None) -> Tensor:
    # A single number of a single token has no order among tokens, only a sign.
    if logits.ndim == 3 and logits.shape[1:] != (1, 1):
        return decisions(logits, real)
    return predictions(logits).reshape(len(logits), -1)


def _checked(answers: Tensor, examples: int) -> Tensor:
    if answers.shape[:1] != (examples,):
        raise LoopscopeError(
            f"answers returned shape {tuple(answers.shape)}, expected one row for each of the {examples} inputs"
        )
    return answers.reshape(examples, -1)


def forecast(
    loop: Loop,
    inputs: Tree,
    targets: Targets | None = None,
    trained_iterations: int | None = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Forecast:
    """Say from 30 steps whether a loop will keep its answers to 480 iterations (see `loopscope.stability.leaps`).

    Give easy inputs, such as those of training: whether hard ones are ever solved is another question.

    Args:
        loop: any loop: a model of this package, or a ``FunctionLoop`` around one's own.
        inputs: what ``loop.encode`` takes, batch first.
        targets: as ``examine`` takes them. Without them, answers can only be compared with earlier ones.
        trained_iterations: most iterations in training, whose answers are the first point; 15 if not known, or more.
        seed: of a random first state.
        answers: what a readout answers, one row per input, to tell answers that are the same. If left out, each token's
            largest output; of tokens with a single output, their order (the sign, where there is one token).

    Raises:
        LoopscopeError: no loop, the state carries a counter or is not in float32 or float64, the step is random or
            changes the shapes or the precision of its state, the readout is no tensor of outputs, no inputs, or targets
            or answers of another shape.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z / 2 + e, read=lambda z: z
        ... )
        >>> print(ls.forecast(loop, torch.eye(4)))
        will keep the answers of iteration 15 to 480 iterations: 100% are the same there
    """
    check_is_loop(loop)
    if trained_iterations is not None:
        check_count(trained_iterations=trained_iterations)
    examples = batch_size(inputs)
    check_positive(examples=examples)
    check_targets(targets, examples)
    began = time.perf_counter()
    with eval_mode(loop), without_autocast(), torch.no_grad():
        recalled = loop.encode(inputs)
        rows = torch.arange(examples, device=device_of(recalled))
        real = mask_of(loop, recalled)
        correct = rule_of(targets, real)
        landings = leaps(loop, recalled, seed, trained_iterations)
        end = landings[-1]
        late = [Landing(end.iteration - len(end.before) + place, state) for place, state in enumerate(end.before)]
        points, first = [], None
        for landing in [*landings, *late]:
            logits = readout(loop, landing.state, recalled)
            check_read(logits, examples)
            answered = _answers(logits, real) if answers is None else _checked(answers(logits), examples)
            first = answered if first is None else first
            # The largest of logits that are no numbers is the first of them: a diverged state would seem to keep its answer.
            finite = flatten(landing.state, real).isfinite().all(1)
            points.append(
                Point(
                    landing.iteration,
                    landing.iteration > LANDINGS[0],
                    float(((answered == first).all(1) & finite).double().mean()),
                    None if correct is None else float((correct(logits, rows).double() * finite).mean()),
                )
            )
    seconds = time.perf_counter() - began
    return Forecast(points[: len(landings)], examples, seconds, points[len(landings) :])
