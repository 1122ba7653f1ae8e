"""What the measurements of a loop without a single map say on three axes, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from loopscope.stability.advice import between
from loopscope.stability.nonautonomous.results import KeptResult, KindResult, NonautonomousResult
from loopscope.stability.results import SwapResult
from loopscope.stability.verdict import ANSWERS_KEPT, ERROR_GROWTH, THRESHOLDS, Axis, Status, Verdict, judge, verdict

ANSWERS, INPUT_DEPENDENCE, GROWTH = "answer retention", "input-dependence", "error growth"
"""Names of the axes, in the place of reachability, input-dependence and geometry."""

Axes = tuple[Axis, Axis, Axis]


def judge_axes(found: NonautonomousResult, swaps: SwapResult | None, residual: float | None) -> Axes:
    """Return what answer retention, input-dependence and error growth say.

    Args:
        found: what was measured.
        swaps: outcomes of swaps at an iteration.
        residual: median relative residual at the end.
    """
    return _answers(found.answers, residual), _input_dependence(swaps, found.swapped_at), _growth(found)


def _answers(kept: KeptResult | None, residual: float | None) -> Axis:
    if kept is None:
        return judge(ANSWERS, {ANSWERS_KEPT: None}, "answers were not followed")
    reason = f"{100 * kept.at_end:.0f}% of the answers of iteration {kept.reference} remain after {len(kept.kept)}"
    if kept.agreement is not None:
        spread = f"{100 * min(kept.draws):.0f} to {100 * max(kept.draws):.0f}%"
        reason += (
            f" ({spread} over {len(kept.draws)} draws, which agree on {100 * kept.agreement:.0f}% of the last answers)"
        )
    if residual is not None:
        reason += f"; residual at the end {residual:.3g}"
    return judge(ANSWERS, {ANSWERS_KEPT: kept.at_end}, reason)


def _input_dependence(swaps: SwapResult | None, at: int | None) -> Axis:
    numbers = {
        "fraction moved": None if swaps is None else swaps.moved,
        "fraction shared": None if swaps is None else swaps.shared,
    }
    outcomes = {} if swaps is None else swaps.recall
    said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count) or "no swap could be done"
    when = "" if at is None else f" from iteration {at} on"
    return judge(INPUT_DEPENDENCE, numbers, f"with another input recalled{when}: {said}")


def _growth(found: NonautonomousResult) -> Axis:
    exponents = found.exponents
    if exponents is None or exponents.factor is None:
        return judge(GROWTH, {ERROR_GROWTH: None}, "exponents were not measured")
    error = "" if exponents.factor_error is None else f" +- {exponents.factor_error:.1g}"
    span = f"iterations {exponents.first + 1} to {exponents.first + max(exponents.counted)}"
    reason = f"one iteration multiplies small errors by {exponents.factor:.3g}{error} ({span})"
    for name, radius in found.parts.items():
        reason += f"; the radius of {name}, a part of the step, is {radius:.3g}"
    return judge(GROWTH, {ERROR_GROWTH: exponents.factor}, reason)


def verdict_of(axes: Axes, easy_accuracy: float | None) -> Verdict:
    """Return what the axes add up to. Where errors grow, a swap says nothing: the orbits part whatever they recall.

    Args:
        axes: answer retention, input-dependence and error growth.
        easy_accuracy: fraction of the examined inputs that are right at the end, where known.
    """
    answers, _, growth = axes
    if answers.status is Status.HOLDS and growth.status is Status.FAILS:
        return Verdict.FRAGILE
    return verdict(*axes, easy_accuracy)


def advise(
    decided: Verdict,
    kind: KindResult,
    axes: Axes,
    found: NonautonomousResult,
    easy_accuracy: float | None,
    reasons: Mapping[str, str],
) -> str:
    """Return what to do, in a sentence or two."""
    growth = axes[2]
    if decided is Verdict.UNSTABLE:
        return _unstable(found, growth)
    if decided in (Verdict.INPUT_INDEPENDENT, Verdict.PATH_DEPENDENT):
        return (
            "The orbit does not follow the recalled input, so answers are not this input's own: give the loop recall, and "
            "train from several starts."
            if decided is Verdict.PATH_DEPENDENT
            else "Orbits of different inputs come together, so answers are not this input's own: give the loop recall."
        )
    if decided is Verdict.FRAGILE:
        return f"Answers stay, but small errors grow: {growth.reason}. Stop where training stopped, or penalize the growth."
    if decided is Verdict.UNDECIDED:
        return _undecided(axes, reasons)
    return _stable(decided, kind, found, easy_accuracy)


def _undecided(axes: Axes, reasons: Mapping[str, str]) -> str:
    open_axes = [axis for axis in axes if axis.status is not Status.HOLDS]
    since = f"No verdict, since {' and '.join(f'{axis.name} is {axis.status.value}' for axis in open_axes)}"
    missing = [reasons[name] for name in ("answers kept", "swaps", "exponents") if name in reasons]
    if missing:
        return f"{since}: {missing[0]}."
    borderline = [between(axis) for axis in open_axes if axis.status is Status.BORDERLINE]
    return (
        f"{since}: {'; '.join(borderline)}." if borderline else f"{since}. Allow more iterations, or give more inputs."
    )


def _stable(decided: Verdict, kind: KindResult, found: NonautonomousResult, easy_accuracy: float | None) -> str:
    assert found.answers is not None
    said = f"Answers of iteration {found.answers.reference} stay for {len(found.answers.kept)} iterations."
    if kind.name.changes_over_time:
        said += " Beyond that nothing is shown, since the step changes with the iteration."
    if easy_accuracy is None:
        return f"{said} Give targets to learn whether they are right."
    if decided is Verdict.STABLE:
        said += f" Only {100 * easy_accuracy:.0f}% of them are right: train longer, or check the data."
    return said


def _unstable(found: NonautonomousResult, growth: Axis) -> str:
    kept = found.answers
    assert kept is not None
    holds = THRESHOLDS[ANSWERS_KEPT].holds
    lost = [iteration for iteration, share in enumerate(kept.kept, start=1) if share is not None and share < holds]
    since = f" Fewer than {100 * holds:.0f}% remain at iteration {lost[0]}." if lost else ""
    said = f"Answers change after iteration {kept.reference}.{since}"
    if growth.status is Status.FAILS:
        said += f" Small errors grow: {growth.reason}."
    return f"{said} Stop there, or train with more, and random, numbers of iterations."
