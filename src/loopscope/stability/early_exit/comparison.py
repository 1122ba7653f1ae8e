"""The result of comparing early-exit rules on one recorded orbit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from loopscope.loop import AnswersPer
from loopscope.stability.early_exit.rules import ExitPoint

SLACK = 0.01
"""Quality that a recommended rule may lose against the best fixed number of iterations."""
MIN_ANSWERS = 16
"""Examples, or tokens where each stops on its own, below which no rule is recommended."""
MIN_EXAMPLES = 4
"""Examples below which none is recommended, however many tokens they have."""


@dataclass(frozen=True)
class RuleCurve:
    """One rule with all of its thresholds.

    Args:
        name: name of the rule.
        meaning: when it stops, in words.
        points: thresholds, mean iterations and quality, from the fewest iterations to the most.
        auc: probability that a right answer has less doubt than a wrong one, by the rule's score after the last iteration.
            None without targets, without a score, or where all answers are right or all wrong.
        auc_low: lower end of its 95% interval, from a bootstrap over examples. None where fewer than five examples have a right
            answer, or fewer than five a wrong one.
        auc_high: upper end.
    """

    name: str
    meaning: str
    points: list[ExitPoint]
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None

    def cheapest(self, quality: float) -> ExitPoint | None:
        """Return the point with the fewest iterations that has at least this quality, or None if none has."""
        enough = [point for point in self.points if point.quality >= quality]
        return min(enough, key=lambda point: point.iterations, default=None)


@dataclass(frozen=True)
class Recommendation:
    """A rule that was chosen on one half of the examples and measured on the other.

    Args:
        rule: name of the rule.
        threshold: its threshold.
        iterations: mean iterations on the other half.
        quality: quality on the other half.
        fixed: the fixed number of iterations that is best on the half that chose.
        fixed_quality: its quality on the other half.
        chosen_on: examples that it was chosen on.
        measured_on: examples that it was measured on.
    """

    rule: str
    threshold: float
    iterations: float
    quality: float
    fixed: int
    fixed_quality: float
    chosen_on: int
    measured_on: int

    @property
    def held(self) -> bool:
        """Whether it loses at most ``SLACK`` on the examples that did not choose it, too."""
        return self.quality >= self.fixed_quality - SLACK

    def __str__(self) -> str:
        """Return it in one sentence, with a warning if it did not hold."""
        found = self._measured()
        return found if self.held else f"no rule can be recommended, the one that was chosen did not hold: {found}"

    def _measured(self) -> str:
        many = f"{self.threshold:.0f} iteration{'' if self.threshold == 1 else 's'}"
        how = f"after {many}" if self.rule == "fixed" else f"by {self.rule}, {said(self)}"
        return (
            f"stop {how}: {self.iterations:.1f} iterations on average and {100 * self.quality:.1f}% good, where "
            f"{self.fixed} iterations for all give {100 * self.fixed_quality:.1f}% (chosen on {self.chosen_on} examples, "
            f"measured on {self.measured_on} others)"
        )


def said(point: Recommendation | ExitPoint, rule: str | None = None) -> str:
    """Return a threshold in words."""
    rule = point.rule if isinstance(point, Recommendation) else rule
    if rule in ("fixed", "patience"):
        return f"{point.threshold:.0f} iterations"
    return f"{point.threshold:.3g}"


@dataclass(frozen=True)
class ExitComparison:
    """Early-exit rules on one recorded orbit.

    Args:
        unit: what stops independently, "example" or "token".
        units: number of units.
        examples: number of examples.
        iterations: iterations of the recorded orbit.
        trained_iterations: largest number of iterations in training, if known.
        measured: accuracy, or agreement with the last iteration where no targets were given.
        rules: the rules that the loop allows.
        oracle: mean iterations and quality of stopping at the first good answer, which no rule can beat.
        broken: fraction of units whose answer was good at some iteration and is not after the last.
        recommendation: the cheapest rule that loses at most one point; None where there are too few examples or no right answers.
        absent: why each missing rule was left out, one sentence each.
        iterations_before: iterations of the model before the first state; the model's own count is this much higher.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z)
        >>> compared = ls.exits(loop, torch.eye(4), torch.arange(4), iterations=12)
        >>> compared.oracle.iterations, compared.oracle.quality
        (1.0, 1.0)
    """

    unit: AnswersPer
    units: int
    examples: int
    iterations: int
    trained_iterations: int | None
    measured: str
    rules: list[RuleCurve]
    oracle: ExitPoint
    broken: float
    recommendation: Recommendation | None
    absent: list[str]
    iterations_before: int = 0

    def rule(self, name: str) -> RuleCurve:
        """Return the rule of this name.

        Raises:
            KeyError: there is none.
        """
        for rule in self.rules:
            if rule.name == name:
                return rule
        raise KeyError(name)

    @property
    def advice(self) -> str:
        """The recommendation in a sentence, or why there is none."""
        if self.recommendation is not None:
            return str(self.recommendation)
        if self.oracle.quality == 0:
            return "no answer is ever right"
        return f"too few examples to recommend a rule: expected at least {MIN_ANSWERS} answers, of at least {MIN_EXAMPLES} inputs"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the recommendation and one line per rule."""
        best = self.rule("fixed").points
        top = max(best, key=lambda point: (point.quality, -point.iterations))
        lines = [
            f"{self.measured} of {self.units} {self.unit}s over {self.iterations} iterations",
            self.advice,
            f"best fixed number of iterations: {top.threshold:.0f}, {100 * top.quality:.1f}% good",
            f"oracle: {self.oracle.iterations:.1f} iterations, {100 * self.oracle.quality:.1f}% good; "
            f"good once and lost by the end: {100 * self.broken:.1f}%",
        ]
        if self.iterations_before:
            lines.append(
                f"the first state is the one after the model's first iteration: add {self.iterations_before} to count the model's "
                "own iterations"
            )
        return "\n".join(lines)
