"""The result of a forecast: one of three answers, and the evidence for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import accumulate, pairwise
from typing import Any

from loopscope.kinds import Kind

HOLDS = 0.9
"""A loop keeps its answers if at least this fraction of its best accuracy is left; without targets, of its answers."""
HALF = 0.5
"""The fraction of the best accuracy below which `fall` looks by default."""


class Outlook(Enum):
    """What a forecast says of a loop."""

    KEEPS = "keeps"
    COLLAPSES = "collapses"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Point:
    """What is found or expected at one iteration. An answer that is not finite is neither the same nor right.

    Args:
        iteration: the iteration.
        leapt: whether a leap led there; otherwise the loop was run.
        same: fraction of inputs whose answer is that of the first point.
        right: fraction of inputs whose answer is right; None where no targets were given.
        finite: fraction of inputs whose state and outputs are finite.
    """

    iteration: int
    leapt: bool
    same: float
    right: float | None
    finite: float = 1.0

    @property
    def value(self) -> float:
        """What a forecast is about: the fraction that is right, or the same where no targets were given."""
        return self.same if self.right is None else self.right


@dataclass(frozen=True)
class Round:
    """What one round of a forecast found.

    Args:
        orbit: iterations that the loop was run before the first leap.
        steps: true steps spent so far, in all.
        least: fraction of the best accuracy that is left at the horizon if every input whose leaps failed their check loses
            its answer.
        most: the same if every such input that has kept its answer keeps it, and a quarter of those that have lost it.
        unchecked: fraction of inputs whose leaps failed their check.
        change: median over these of the relative change per iteration after the leap that failed; None without any.
        expected: what the fits say it is.
        growth: median over these of the factor by which the fit of the leap that failed says that the pace grows.
    """

    orbit: int
    steps: int
    least: float
    most: float
    unchecked: float
    change: float | None = None
    expected: float | None = None
    growth: float | None = None

    @property
    def outlook(self) -> Outlook:
        """What this round says by itself."""
        if self.least >= HOLDS:
            return Outlook.KEEPS
        return Outlook.COLLAPSES if self.most < HOLDS else Outlook.CANNOT_TELL


@dataclass(frozen=True)
class Forecast:
    """Whether a loop keeps its answers to a horizon, and why.

    Args:
        outlook: keeps, collapses or cannot tell.
        reason: why it cannot tell, or what is not finite, and from when on; empty where neither applies.
        collapse: about the iteration from which less than 90% of the best accuracy is left; None unless it collapses, or
            where answers come and go.
        horizon: the iteration that was asked about.
        points: what was found at rising iterations, the first one where training ended. The last one is at the horizon, or
            where the budget of a loop ended that cannot be extrapolated.
        inputs: number of inputs that they are fractions of.
        seconds: time that it took.
        late: the iterations just before the last point, where a cycle has other answers.
        steps: evaluations of the step that it cost, checks of the loop included.
        rounds: the rounds; none where the loop was run and not extrapolated.
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
    kind: Kind = Kind.AUTONOMOUS

    @property
    def keeps(self) -> bool:
        """Whether the answer is that it keeps its answers."""
        return self.outlook is Outlook.KEEPS

    @property
    def kept(self) -> float:
        """Accuracy at the horizon over the best on the way (0 where none is right); without targets, what is the same."""
        last = self.points[-1]
        if last.right is None:
            return last.same
        best = max(point.value for point in self._way)
        return last.value / best if best > 0 else 0.0

    @property
    def dip(self) -> tuple[int, float] | None:
        """Where least is kept, and how much of the best before; None where that is enough, or is the horizon."""
        kept = self._kept_on_the_way
        lowest = min(range(len(kept)), key=kept.__getitem__)
        if kept[lowest] >= HOLDS or lowest == len(self.points) - 1:
            return None
        return self._way[lowest].iteration, kept[lowest]

    @property
    def _way(self) -> list[Point]:
        # The horizon before what led to it: where both are as low, the horizon is what is said.
        return [*self.points, *self.late]

    @property
    def _kept_on_the_way(self) -> list[float]:
        """What is kept at each point of the way, of the best before it; 1 as long as there is nothing to keep."""
        values = [point.value for point in self._way]
        return [value / best if best else 1.0 for value, best in zip(values, accumulate(values, max), strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, fit for JSON; a number that is not finite is None."""
        return _plain({**asdict(self), "outlook": self.outlook.value, "kind": self.kind.value})

    def __str__(self) -> str:
        targets = self.points[0].right is not None
        what = "its answers" if targets else f"the answers of iteration {self.points[0].iteration}"
        lost = "answers" if targets else what
        left = f"{100 * self.kept:.0f}% {'of its best accuracy is left' if targets else 'are the same'}"
        if self.outlook is Outlook.CANNOT_TELL:
            return f"cannot be forecast to {self.horizon} iterations: {self.reason}"
        why = f"; {self.reason}" if self.reason else ""
        if self.outlook is Outlook.KEEPS:
            return f"will keep {what} to {self.horizon} iterations: {left} there{self._but}{why}"
        if self.collapse is None:
            return f"will not keep {what} to {self.horizon} iterations: {left} there{self._but}{why}"
        return f"will lose {lost} about iteration {self.collapse:.0f}: {left} at {self.points[-1].iteration}{why}"

    @property
    def _but(self) -> str:
        if self.dip is None:
            return ""
        iteration, kept = self.dip
        return f", but {100 * kept:.0f}% at {iteration}: the answer depends on when one stops"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fall(points: Sequence[tuple[int, float]], share: float = HALF) -> float | None:
    """Return where the accuracy first falls below a share of its best so far: the geometric mean of the points around.

    Args:
        points: iterations, rising, and the accuracy at each.
        share: the share.

    Returns:
        The iteration, or None where it never does.

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
