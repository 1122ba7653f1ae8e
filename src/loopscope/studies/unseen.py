"""What is said of the models that leaps were not made on, against what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from loopscope.forecasts.result import HOLDS
from loopscope.studies.outcomes import Compared, Fate, Outcome
from loopscope.studies.population import Member
from loopscope.studies.predictors import PREDICTORS, unseen
from loopscope.studies.signals import AT_FURTHER, LEAP_KEEPS, LEAP_KEPT, LONG_RUN
from loopscope.studies.statistics import Estimate, estimate_auc
from loopscope.studies.tallies import Ended

ALL = "all tasks"
KEEPS, LOSES = "keeps its answers", "loses answers"
"""What is said of a model."""


def leaps_say(member: Member) -> bool | None:
    """Return whether ``loopscope forecast`` says that an unseen model keeps its answers; None where it was not asked."""
    said = member.signal(LEAP_KEEPS)
    return bool(said) if said is not None and unseen(member) else None


def in_words(keeps: bool) -> str:
    """Return what is said of a model."""
    return KEEPS if keeps else LOSES


def _by_what_is_left(name: str) -> Callable[[Member], bool | None]:
    """Return the rule of nine tenths for a run: it keeps its answers if so much of the best is left at its end."""

    def rule(member: Member) -> bool | None:
        left = member.signal(name)
        return None if left is None else left >= HOLDS

    return rule


RULES: dict[str, Callable[[Member], bool | None]] = {
    LEAP_KEPT: leaps_say,
    f"{LONG_RUN}{AT_FURTHER}": _by_what_is_left(f"{LONG_RUN}{AT_FURTHER}"),
    LONG_RUN: _by_what_is_left(LONG_RUN),
}
"""The rules that say a word without being fitted, by the predictors whose numbers they go by."""
SEEING_AS_MUCH = tuple(one.name for one in PREDICTORS if one.at == AT_FURTHER)
"""The predictors that see as many iterations as leaps do."""


@dataclass(frozen=True)
class Right:
    """How often a word came true.

    Args:
        right: how often.
        models: of so many.
    """

    right: int
    models: int


@dataclass(frozen=True)
class OnUnseen:
    """How well one forecasts unseen models that solve their task.

    Args:
        name: the predictor's.
        area: area under the ROC curve, on the models that each predictor beside it knows too.
        right: how often what its rule says comes true, over all tasks (``ALL``) and by task; None where it has no rule.
    """

    name: str
    area: Estimate
    right: dict[str, Right] | None


@dataclass(frozen=True)
class Mistake:
    """An unseen model that solves its task, and of which leaps said what did not come true.

    Args:
        run: its name.
        task: its task.
        said: what was said.
        kept: easy accuracy at the last iteration over its best.
        fate: what became of it.
    """

    run: str
    task: str
    said: str
    kept: float | None
    fate: Fate


def _decisive(data: Compared) -> Bool[np.ndarray, "models"]:
    """Return which models are unseen and solve their task."""
    return data.solves & np.array([unseen(member) for member in data.members])


def _ended(data: Compared) -> list[Ended]:
    """Return the unseen models that solve their task, with what became of them."""
    decisive = _decisive(data)
    return [one for one, counts in zip(zip(data.members, data.outcomes, strict=True), decisive, strict=True) if counts]


def on_unseen(data: Compared, scores: Mapping[str, Float[np.ndarray, "models"]]) -> list[OnUnseen]:
    """Return how well those forecast unseen models that see as much as leaps, and running on to the end.

    Args:
        data: the models.
        scores: what each predictor ranks models by, NaN where it does not know one.
    """
    names = (*SEEING_AS_MUCH, LONG_RUN)
    same = _decisive(data)
    for name in names:
        known = same & np.isfinite(scores[name])
        # One that was measured of no model at all says nothing of which to compare on.
        same = known if known.any() else same
    found = []
    for name in names:
        known = same & np.isfinite(scores[name])
        area = estimate_auc(scores[name][known], data.holds[known], data.cells[known])
        found.append(OnUnseen(name, area, _right(data, RULES[name]) if name in RULES else None))
    return found


def _right(data: Compared, rule: Callable[[Member], bool | None]) -> dict[str, Right]:
    ended = _ended(data)
    tasks = dict.fromkeys(member.task for member, _ in ended)
    came = [(member.task, _came_true(rule(member), end)) for member, end in ended]
    return {ALL: _counted(true for _, true in came)} | {
        task: _counted(true for other, true in came if other == task) for task in tasks
    }


def _came_true(said: bool | None, end: Outcome) -> bool | None:
    return None if said is None else said == end.holds


def _counted(came_true: Iterable[bool | None]) -> Right:
    known = [one for one in came_true if one is not None]
    return Right(sum(known), len(known))


def mistakes(data: Compared) -> list[Mistake]:
    """Return the unseen models that solve their task and of which leaps said what did not come true."""
    found = []
    for member, end in _ended(data):
        said = leaps_say(member)
        if said is not None and said != end.holds:
            found.append(Mistake(member.run, member.task, in_words(said), end.kept, end.fate))
    return found
