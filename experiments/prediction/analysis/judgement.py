"""The claims of the criterion, judged by rules that were fixed with it (``criterion.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.prediction.analysis.forecasts import ForecastStudy
from experiments.prediction.analysis.performance import HeadToHead
from experiments.prediction.analysis.statistics import MIN_MODELS, Estimate, Share
from experiments.prediction.analysis.thresholds import VerdictScore
from experiments.prediction.signals import FORECAST, LONG_RUN, SAME_STEPS

MODELS = 196
"""Number of looped models that the criterion speaks of: all runs of the five configs."""
RIGHT, DECIDED, COST = 0.95, 0.85, 0.2
"""Least share of right forecasts and of decided ones, and the largest share of the steps to the horizon."""
VERDICT_DECIDED, VERDICT_RIGHT = 0.8, 0.9
"""Least share of models that the verdict decides, and of right ones among these."""
Number = Share | Estimate | float


@dataclass(frozen=True)
class Claim:
    """A claim of the criterion.

    Args:
        name: the claim.
        agrees_if: what must be found, in words.
    """

    name: str
    agrees_if: str


IS_RIGHT = Claim("A decided forecast is right", "at least 95% of the decided forecasts are right")
DECIDES = Claim("The forecast decides", "at least 85% of the models are decided")
IS_CHEAP = Claim("It costs little", "no forecast takes more than 20% of 500 steps")
BEATS_RUNNING_ON = Claim(
    "It is better than running on as many steps",
    "where both decide, more forecasts are right than answers from running on for as many steps as the forecast took, by the "
    "same rule of 90%",
)
AXES_LEAD = Claim(
    "The three axes tell more than cheap signals",
    "the area under the ROC curve of all three axes exceeds that of all short rivals, and the interval of the lead excludes 0",
)
VERDICT_COMES_TRUE = Claim(
    "The verdict comes true",
    "at least 80% of the models are decided by the verdict over all iterations, and at least 90% of these rightly",
)


@dataclass(frozen=True)
class Judgement:
    """What a population says about a claim.

    Args:
        claim: the claim.
        found: the numbers that were found, by what they are.
        agrees: whether they agree with the claim; None if that cannot be told.
        reason: why it cannot be told; empty if it can.
    """

    claim: Claim
    found: dict[str, Number]
    agrees: bool | None
    reason: str = ""


def judge_claims(forecasts: ForecastStudy, axes: HeadToHead, verdict: VerdictScore) -> list[Judgement]:
    """Judge every claim of the criterion.

    Args:
        forecasts: what the population says about forecasts.
        axes: all three axes against all short rivals.
        verdict: how often the verdict over all iterations comes true, by the thresholds that the population sets.
    """
    return [
        _right(forecasts),
        _decides(forecasts),
        _cost(forecasts),
        _beats_running_on(forecasts),
        _axes(axes),
        _verdict(verdict),
    ]


def _judged(claim: Claim, found: Mapping[str, Number | None], agrees: bool, *reasons: str) -> Judgement:
    """Return a judgement, which cannot be told for the first of some reasons that is not empty."""
    known = {name: value for name, value in found.items() if value is not None}
    reason = next(filter(None, reasons), "")
    return Judgement(claim, known, None if reason else agrees, reason)


def _few(models: float, kind: str) -> str:
    """Return that there are too few models of a kind, or nothing if there are enough."""
    return f"too few {kind}: {models:.0f}" if models < MIN_MODELS else ""


def _missing(forecasts: ForecastStudy) -> str:
    """Return how many models that solve their task have no forecast, or nothing if all have one."""
    missing = forecasts.missing
    return f"not measured: {missing} of {forecasts.solving} models that solve their task" if missing else ""


def _at_least(least: float, found: Share) -> bool:
    return found.value is not None and found.value >= least


def _right(forecasts: ForecastStudy) -> Judgement:
    right = forecasts.overall.right
    few = _few(right.total, "decided forecasts")
    return _judged(IS_RIGHT, {"right": right}, _at_least(RIGHT, right), few, _missing(forecasts))


def _decides(forecasts: ForecastStudy) -> Judgement:
    decided = forecasts.overall.decided
    few = _few(decided.total, "models with a forecast")
    return _judged(DECIDES, {"decided": decided}, _at_least(DECIDED, decided), few, _missing(forecasts))


def _cost(forecasts: ForecastStudy) -> Judgement:
    cost = forecasts.cost
    few = _few(cost.models, "models with a forecast")
    found = {"median": cost.median, "largest": cost.largest}
    return _judged(IS_CHEAP, found, cost.largest is not None and cost.largest <= COST, few, _missing(forecasts))


def _beats_running_on(forecasts: ForecastStudy) -> Judgement:
    ours, theirs, to_the_end = (forecasts.rule(name) for name in (FORECAST, SAME_STEPS, LONG_RUN))
    found = {
        "forecast": ours.decided,
        "running on as many steps": theirs.decided,
        "running on as many steps, where the forecast is undecided": theirs.undecided,
        "running on to the end": to_the_end.decided,
    }
    few = _few(ours.decided.total, "decided forecasts")
    return _judged(BEATS_RUNNING_ON, found, ours.decided.count > theirs.decided.count, few, _missing(forecasts))


def _axes(axes: HeadToHead) -> Judgement:
    found = {"all three axes": axes.ours, "all short rivals": axes.theirs, "lead": axes.lead}
    value, low = axes.lead.value, axes.lead.low
    if value is None:
        return _judged(AXES_LEAD, {}, False, axes.lead.note or "the areas are not known")
    return _judged(AXES_LEAD, found, value > 0 and (low or 0.0) > 0, "the lead has no interval" if low is None else "")


def _verdict(score: VerdictScore) -> Judgement:
    decided, right = score.decided_models, score.right_models
    agrees = _at_least(VERDICT_DECIDED, decided) and _at_least(VERDICT_RIGHT, right)
    few = _few(decided.total, "models with a verdict")
    return _judged(VERDICT_COMES_TRUE, {"decided": decided, "right of these": right}, agrees, few)
