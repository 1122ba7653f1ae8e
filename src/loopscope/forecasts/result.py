"""The result of a forecast: one of three outlooks, with its evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import accumulate, pairwise
from typing import Any

from loopscope.kinds import Kind

HOLDS = 0.9
"""A loop keeps its answers if at least this fraction of its best accuracy (without targets, of its answers) is left."""
HALF = 0.5
"""Default fraction of the best accuracy below which `fall` considers the accuracy lost."""


class Outlook(Enum):
    """The three possible results of a forecast."""

    KEEPS = "keeps"
    COLLAPSES = "collapses"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Point:
    """The answers at one iteration. An answer that is not finite is neither the same nor right.

    Args:
        iteration: the iteration.
        leapt: whether it was reached by a leap; otherwise the loop was run to it.
        same: fraction of answers that are the same as at the first point.
        right: fraction of answers that are right; None if no targets were given.
        finite: fraction of answers whose state and outputs are finite.
    """

    iteration: int
    leapt: bool
    same: float
    right: float | None
    finite: float = 1.0

    @property
    def value(self) -> float:
        """The fraction that the forecast is about: right answers or, without targets, the same answers."""
        return self.same if self.right is None else self.right


@dataclass(frozen=True)
class Round:
    """The result of one round of a forecast.

    Args:
        orbit: number of iterations that the loop was run before the first leap.
        steps: number of true steps spent so far, over all rounds.
        least: lower bound on the fraction of the best accuracy left at the horizon. A kept answer is sure if the orbit does
            not oscillate any more and the leaps passed their check, or if their miss could not change it. Of the others,
            three quarters count if the true orbit still has them and the changes do not grow.
        most: upper bound. All kept answers count, and three quarters of those that leaps lost by going astray although the
            true orbit still has them. They count in full where the orbit still oscillates before the leaps. So do answers
            that the true orbit still has and that leaps lost by growing beyond what their fit resolves.
        unchecked: fraction of inputs that have kept their answer but not for sure.
        change: median over these inputs of the relative change per iteration after the failed leap; None if there are none.
        expected: the same change according to the fits.
        growth: median over these inputs of the factor by which, according to the fit, the change grows over the failed leap.
        oscillating: fraction of inputs whose answer is in doubt and whose state still oscillates before the leaps.
    """

    orbit: int
    steps: int
    least: float
    most: float
    unchecked: float
    change: float | None = None
    expected: float | None = None
    growth: float | None = None
    oscillating: float = 0.0

    @property
    def outlook(self) -> Outlook:
        """The outlook of this round alone."""
        if self.least >= HOLDS:
            return Outlook.KEEPS
        return Outlook.COLLAPSES if self.most < HOLDS else Outlook.CANNOT_TELL


@dataclass(frozen=True)
class Forecast:
    """Whether a loop keeps its answers to a horizon, and why.

    Args:
        outlook: keeps, collapses or cannot tell.
        reason: why the forecast cannot tell, or what ceases to be finite and when. Empty if neither applies.
        collapse: approximate iteration from which less than 90% of the best accuracy is left; None if the loop does not
            collapse, or if answers come and go.
        horizon: the iteration that was forecast.
        points: the answers at ascending iterations, from the last one of training to the horizon, or to where the budget of
            a loop ended that cannot be extrapolated.
        inputs: number of inputs. Each has one answer, unless ``tokens`` is given.
        seconds: time that the forecast took, in seconds.
        late: the answers just before the last point. In a cycle they differ from those at that point.
        steps: number of evaluations of the step, including checks of the loop.
        rounds: the rounds; none if the loop was run and not extrapolated.
        tokens: number of tokens that have an answer each, for a loop whose answers are counted by token; else None.
        kind: the kind of loop.

    Example:
        >>> import loopscope as ls
        >>> import torch
        >>> halving = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> found = ls.forecast(halving, torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        >>> found.outlook.value, found.horizon, found.kept
        ('keeps', 480, 1.0)
    """

    outlook: Outlook
    reason: str
    collapse: float | None
    horizon: int
    points: Sequence[Point]
    inputs: int
    seconds: float
    late: Sequence[Point] = ()
    steps: int = 0
    rounds: Sequence[Round] = ()
    tokens: int | None = None
    kind: Kind = Kind.AUTONOMOUS

    @property
    def counted(self) -> str:
        """What the fractions are fractions of, in words."""
        return f"{self.inputs} inputs" if self.tokens is None else f"{self.tokens} tokens of {self.inputs} inputs"

    @property
    def keeps(self) -> bool:
        """Whether the forecast is that the loop keeps its answers."""
        return self.outlook is Outlook.KEEPS

    @property
    def kept(self) -> float:
        """Accuracy at the horizon over the best on the way, 0 if none is right. Without targets, the fraction of same answers."""
        last = self.points[-1]
        if last.right is None:
            return last.same
        best = max(point.value for point in self._way)
        return last.value / best if best > 0 else 0.0

    @property
    def dip(self) -> tuple[int, float] | None:
        """The iteration at which least is kept and the fraction kept there, or None if it is enough or at the horizon."""
        kept = self._kept_on_the_way
        lowest = min(range(len(kept)), key=kept.__getitem__)
        if kept[lowest] >= HOLDS or lowest == len(self.points) - 1:
            return None
        return self._way[lowest].iteration, kept[lowest]

    @property
    def _way(self) -> list[Point]:
        # The horizon comes before the states that led to it, so that `dip` prefers it if both are equally low.
        return [*self.points, *self.late]

    @property
    def _kept_on_the_way(self) -> list[float]:
        """The fraction kept at each point, relative to the best so far. It is 1 as long as there is nothing to keep."""
        values = [point.value for point in self._way]
        return [value / best if best else 1.0 for value, best in zip(values, accumulate(values, max), strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values. NaN and infinity become None."""
        return _plain({**asdict(self), "outlook": self.outlook.value, "kind": self.kind.value})

    def __str__(self) -> str:
        targets = self.points[0].right is not None
        answers, accuracy = ("answers", "accuracy") if self.tokens is None else ("tokens", "accuracy by token")
        what = f"its {answers}" if targets else f"the {answers} of iteration {self.points[0].iteration}"
        lost = answers if targets else what
        left = f"{100 * self.kept:.0f}% {f'of its best {accuracy} is left' if targets else 'are the same'}"
        if self.outlook is Outlook.CANNOT_TELL:
            return f"cannot be forecast to {self.horizon} iterations: {self.reason}"
        why = f"; {self.reason}" if self.reason else ""
        if self.outlook is Outlook.KEEPS:
            return f"will keep {what} to {self.horizon} iterations: {left} there{self._but}{why}"
        if self.collapse is None:
            return f"will not keep {what} to {self.horizon} iterations: {left} there{self._but}{why}"
        return f"will lose {lost} at about iteration {self.collapse:.0f}: {left} at {self.points[-1].iteration}{why}"

    @property
    def _but(self) -> str:
        if self.dip is None:
            return ""
        iteration, kept = self.dip
        return f", but {100 * kept:.0f}% at {iteration}: the answer depends on when the loop stops"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fall(points: Sequence[tuple[int, float]], share: float = HALF) -> float | None:
    """Return the iteration at which the accuracy first falls below a share of its best so far.

    Args:
        points: ascending iterations, and the accuracy at each.
        share: fraction of the best accuracy so far.

    Returns:
        The geometric mean of the iterations just before and after the fall, or None if there is none.

    Example:
        >>> fall([(10, 1.0), (40, 0.2)])
        20.0
    """
    best = 0.0
    for (before, right), (after, value) in pairwise(points):
        best = max(best, right)
        if value < share * best:
            return math.sqrt(before * after)
    return None
