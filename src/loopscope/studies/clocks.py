"""The collapse clock: is the iteration at which half is lost told in advance, and better than by a median?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from loopscope.forecasts.leaps import LANDINGS
from loopscope.studies.outcomes import Compared
from loopscope.studies.population import Member
from loopscope.studies.predictors import ALL_AXES, ALL_RIVALS, LOOK, unseen
from loopscope.studies.signals import AT_FURTHER, LEAP, LEAP_COLLAPSE
from loopscope.studies.statistics import FEWEST, FOLDS, Estimate, cross_fit, estimate, regressor, too_few

CLOCK = (ALL_AXES, LOOK, f"{LOOK}{AT_FURTHER}", ALL_RIVALS, f"{ALL_RIVALS}{AT_FURTHER}")
"""The predictors whose numbers the collapse clock is set by."""
MEDIAN_CLOCK = "their median"
ALL = "all"
"""The models of all tasks."""


@dataclass(frozen=True)
class Clock:
    """How well the iteration of collapse is told in advance.

    Args:
        name: what it is told by.
        among: of which models: all, a task's, or all but a task's; rules are fitted on these alone.
        octaves: median error of the forecast iteration, as |log2| of the ratio.
        gain: by how much that is less than what the median of the other models gives, on the same models.
    """

    name: str
    among: str
    octaves: Estimate
    gain: Estimate


def clocks(data: Compared, values: Mapping[str, Float[np.ndarray, "models _"]]) -> tuple[list[Clock], int, int]:
    """Tell the iteration of collapse of the models that collapse after training's iterations, from those of other cells.

    Of all, of each task's alone and of all but a task's, where they are enough (``FEWEST``).

    Args:
        data: the models.
        values: numbers of each model, of the predictors ``CLOCK`` at least.

    Returns:
        the clocks, how many models collapse after the trained iterations, and how many before.
    """
    falls = [(place, end.collapse) for place, end in enumerate(data.outcomes) if end.collapse is not None]
    later = [(place, at) for place, at in falls if at > data.members[place].trained_iterations]
    tasks = list(dict.fromkeys(data.members[place].task for place, _ in later))
    groups = {ALL: later}
    if len(tasks) > 1:
        groups |= {task: [one for one in later if data.members[one[0]].task == task] for task in tasks}
    if len(tasks) > 2:  # of two, one is all but the other
        groups |= {f"{ALL} but {task}": [one for one in later if one not in groups[task]] for task in tasks}
    found = [
        clock
        for among, group in groups.items()
        if among == ALL or len(group) >= FEWEST
        for clock in _clocks(data, values, group, among)
    ]
    return found, len(later), len(falls) - len(later)


def _clocks(
    data: Compared, values: Mapping[str, Float[np.ndarray, "models _"]], falls: Sequence[tuple[int, int]], among: str
) -> list[Clock]:
    """Return every clock of some models.

    Args:
        data: all models.
        values: numbers of each of these.
        falls: the places of the models that the clocks are of, and where each collapses.
        among: these in words.
    """
    places = np.array([place for place, _ in falls], dtype=np.int64)
    octave = np.log2(np.array([at for _, at in falls], dtype=float))
    cells = data.cells[places]
    parts = _group_folds(cells)

    def constant(fitted: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        own = float(np.median(octave[fitted]))
        return lambda tested: np.full(len(tested), own)

    def ridge(numbers: np.ndarray) -> np.ndarray:
        def fit(fitted: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            rule = regressor().fit(numbers[fitted], octave[fitted])
            return lambda tested: rule.predict(numbers[tested])

        return cross_fit(fit, parts, len(places))

    middle = cross_fit(constant, parts, len(places))
    simplest = np.abs(middle - octave)
    said = {name: ridge(values[name][places]) for name in CLOCK}
    said[LEAP_COLLAPSE] = np.array([_fall_in_octaves(data.members[place]) for place in places])
    said[MEDIAN_CLOCK] = middle
    return [_clock(name, among, np.abs(one - octave), simplest, cells) for name, one in said.items()]


def _clock(name: str, among: str, errors: np.ndarray, simplest: np.ndarray, cells: np.ndarray) -> Clock:
    known = np.isfinite(errors) & np.isfinite(simplest)
    count = int(known.sum())
    if count < FEWEST:
        none = too_few(f"{count} collapse", count)
        return Clock(name, among, none, none)
    own, other = errors[known], simplest[known]
    return Clock(
        name,
        among,
        estimate(lambda chosen: float(np.median(own[chosen])), cells[known]),
        estimate(lambda chosen: float(np.median(other[chosen]) - np.median(own[chosen])), cells[known]),
    )


def _fall_in_octaves(member: Member) -> float:
    """Return the binary logarithm of where leaps see half lost, of the end where they see it nowhere; NaN where they were
    not taken, or were made on the model's study.
    """
    if LEAP not in member.signals or not unseen(member):
        return math.nan
    return math.log2(member.signal(LEAP_COLLAPSE) or LANDINGS[-1])


def _group_folds(cells: Int[np.ndarray, "models"]) -> list[np.ndarray]:
    """Return the models of each part of the cells: the cells in turn."""
    distinct = np.unique(cells)
    parts = min(FOLDS, len(distinct))
    return [np.flatnonzero(np.isin(cells, distinct[part::parts])) for part in range(parts)] if parts > 1 else []
