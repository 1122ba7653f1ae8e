"""The three questions about a language model that come first in its report, each with a short answer and the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loopscope.stability.early_exit.comparison import ExitComparison, said
from loopscope.stability.language.part import EXITS, LOOPS
from loopscope.stability.language.results import LanguageResult

ENOUGH, FAR, RULE = "How many loops are enough?", "How far is it safe to go?", "Which rule should stop it?"
NOT_KNOWN = "not known"
OLD = "this examination was stored before it was measured: examine the model again"


@dataclass(frozen=True)
class Reply:
    """One question and its answer.

    Attributes:
        question: the question.
        short: the answer in a few words.
        why: the evidence, or why there is no answer, in a sentence without a full stop.
        tone: holds, borderline or unknown.
    """

    question: str
    short: str
    why: str
    tone: str


def replies(found: LanguageResult | None, unknown: Mapping[str, str], *, rests: bool) -> list[Reply]:
    """Return the answers to the three questions.

    Args:
        found: what was measured; None for an examination that does not have it.
        unknown: why parts are missing.
        rests: whether the states arrive, so that answers stay beyond the loops that were run.
    """
    return [_enough(found, unknown), _far(found, unknown, rests=rests), _rule(found, unknown)]


def _loops(count: int) -> str:
    return f"{count} loop{'' if count == 1 else 's'}"


def _enough(found: LanguageResult | None, unknown: Mapping[str, str]) -> Reply:
    loops = None if found is None else found.loops
    if loops is None:
        return Reply(ENOUGH, NOT_KNOWN, unknown.get(LOOPS, OLD), "unknown")
    if loops.enough is None:
        return Reply(ENOUGH, NOT_KNOWN, loops.why_enough, "unknown")
    return Reply(ENOUGH, _loops(loops.enough), loops.why_enough, "holds")


def _far(found: LanguageResult | None, unknown: Mapping[str, str], *, rests: bool) -> Reply:
    loops = None if found is None else found.loops
    if loops is None:
        return Reply(FAR, NOT_KNOWN, unknown.get(LOOPS, OLD), "unknown")
    if loops.safe is None:
        return Reply(FAR, NOT_KNOWN, loops.why_safe, "unknown")
    if not loops.safe_to_the_end:
        return Reply(FAR, f"up to {_loops(loops.safe)}", loops.why_safe, "borderline")
    beyond = (
        "the states rest at fixed points, so more loops should change nothing"
        if rests
        else "ls.forecast says what follows"
    )
    return Reply(FAR, f"at least {_loops(loops.safe)}", f"{loops.why_safe}; {beyond}", "holds")


def _rule(found: LanguageResult | None, unknown: Mapping[str, str]) -> Reply:
    exits = None if found is None else found.exits
    if exits is None:
        return Reply(RULE, NOT_KNOWN, unknown.get(EXITS, OLD), "unknown")
    best = exits.recommendation
    if best is None:
        return Reply(RULE, NOT_KNOWN, exits.advice, "unknown")
    if not best.held:
        lost = f"{_named(exits)} was chosen and did not hold on other inputs: {_cost(exits)}; give more inputs"
        return Reply(RULE, NOT_KNOWN, lost, "unknown")
    return Reply(RULE, _named(exits), f"{_cost(exits)}{_reading(exits)}", "holds")


def _named(exits: ExitComparison) -> str:
    best = exits.recommendation
    assert best is not None
    if best.rule == "fixed":
        return f"after {_loops(round(best.threshold) + exits.iterations_before)}"
    if best.rule == "patience":
        return f"patience of {_loops(round(best.threshold))}"
    return f"{best.rule} ≤ {said(best)}"


def _cost(exits: ExitComparison) -> str:
    best, before = exits.recommendation, exits.iterations_before
    assert best is not None
    what = "are right" if exits.measured == "accuracy" else f"are answered as after {exits.iterations + before} loops"
    return (
        f"{best.iterations + before:.1f} loops on average, and {100 * best.quality:.1f}% of the tokens {what}; "
        f"{_loops(best.fixed + before)} for all: {100 * best.fixed_quality:.1f}% (chosen on {best.chosen_on} inputs, measured on "
        f"{best.measured_on} others)"
    )


def _reading(exits: ExitComparison) -> str:
    best = exits.recommendation
    assert best is not None
    reads = best.rule in ("KL divergence", "entropy", "patience")
    return "; this rule reads the output after every loop" if reads else ""
