"""Thresholds fitted on a population: where should each number of an axis hold and fail, if verdicts are to come true?

A number holds and fails at the two neighbouring values between which a cut best tells the models that hold from those
that lose it: what lies between, no model has shown. Fitted thresholds are judged on models of other cells alone, against
the priors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from loopscope.stability.dependence.swap_test import Outcome as Swapped
from loopscope.stability.verdict import (
    ANSWERS_STAND,
    PRIORS,
    THRESHOLDS,
    Status,
    Threshold,
    Verdict,
    judge,
    judge_geometry,
    judge_reachability,
    verdict,
)
from loopscope.studies.outcomes import Compared
from loopscope.studies.population import Member
from loopscope.studies.statistics import Estimate, enough, estimate, in_numbers, too_few

REACHABILITY = ("fraction arrived", ANSWERS_STAND)
DEPENDENCE = ("fraction moved", "fraction shared")
GEOMETRY = ("radius", "relative Lipschitz constant", "gradient growth per iteration")
FITTABLE = ("fraction arrived", "fraction shared", *GEOMETRY)
"""The numbers whose failing is to mean that answers are lost. The fraction moved tells a path,
answers that stand and accuracy an answer."""
KEEPS = (Verdict.STABLE_AND_ACCURATE, Verdict.STABLE, Verdict.PATH_DEPENDENT, Verdict.UNSETTLED)
"""The verdicts that say that answers are kept (from a loop's own start)."""
SAYS = {Status.HOLDS: 1.0, Status.FAILS: 0.0}
"""What a status says of holding; others are undecided."""
UNDECIDED = 0.5
PRIOR_WORDS, ALL_WORDS, TAKEN_WORDS = (
    "priors",
    "fitted on other cells, all numbers",
    "fitted on other cells, those taken",
)
HALF_WORDS = "fitted on half of the cells, those taken"


def numbers_of_axes(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the deciding numbers of an examination's row, by measure; of an older one the fraction shared from its swap."""
    numbers = dict(found.get("numbers", {}))
    swap = found.get("recall swap") or {}
    known = sum(swap.values()) - swap.get(Swapped.UNKNOWN, 0)
    told = known > 0 and 2 * known >= sum(swap.values())
    shared = swap.get(Swapped.SHARED, 0) + swap.get(Swapped.STAYED, 0)
    numbers.setdefault("fraction shared", shared / known if told else None)
    # Older rows hold the accuracy up to an early iteration alone: the last one there stands for the end.
    numbers["easy accuracy"] = found.get("right at the end", (found.get("accuracy") or [None])[-1])
    return {measure: numbers.get(measure) for measure in THRESHOLDS}


def judged(found: Mapping[str, Any], thresholds: Mapping[str, Threshold] = THRESHOLDS) -> Verdict:
    """Return the verdict on an examination's row by some thresholds, whatever it was when the model was examined."""
    numbers = numbers_of_axes(found)
    reach = judge_reachability({measure: numbers[measure] for measure in REACHABILITY}, "", thresholds)
    dependence = judge("input-dependence", {measure: numbers[measure] for measure in DEPENDENCE}, "", thresholds)
    geometry = judge_geometry({measure: numbers[measure] for measure in GEOMETRY}, "", thresholds)
    return verdict(reach, dependence, geometry, numbers["easy accuracy"], thresholds)


def best_gap(values: Float[np.ndarray, "models"], holds: Bool[np.ndarray, "models"]) -> tuple[float, float] | None:
    """Return the two neighbouring values between which a cut has the largest balanced accuracy; larger is better.

    Of several such gaps the widest; None where values do not differ, or one of the outcomes is missing.
    """
    distinct = np.unique(values)
    if len(distinct) < 2 or holds.all() or not holds.any():
        return None
    good, bad = np.sort(values[holds]), np.sort(values[~holds])
    kept = 1 - np.searchsorted(good, distinct[1:]) / len(good)
    lost = np.searchsorted(bad, distinct[1:]) / len(bad)
    accuracy = kept + lost
    best = np.flatnonzero(accuracy >= accuracy.max() - 1e-9)
    place = best[np.argmax(np.diff(distinct)[best])]
    return float(distinct[place]), float(distinct[place + 1])


def fit(
    prior: Threshold, values: Float[np.ndarray, "models"], holds: Bool[np.ndarray, "models"], origin: str
) -> Threshold | None:
    """Return the threshold that models which solve their task set, NaN values left out; None where they are too few.

    Args:
        prior: the number's prior, which says what is better.
        values: the number of each model.
        holds: whether each holds.
        origin: of the fitted threshold.
    """
    known = np.isfinite(values)
    values, holds = values[known], holds[known]
    if not enough(holds):
        return None
    sign = 1.0 if prior.larger_is == "better" else -1.0
    gap = best_gap(sign * values, holds)
    return None if gap is None else replace(prior, holds=sign * gap[1], fails=sign * gap[0], origin=origin)


def population_of(members: Sequence[Member]) -> str:
    """Return the words for some models, such as "90 models of prefix sums, width 64"."""
    *others, last = dict.fromkeys(member.task.replace("-", " ") for member in members)
    tasks = f"{', '.join(others)} and {last}" if others else last
    widths = sorted({width for member in members if (width := member.settings["model"].get("width")) is not None})
    wide = f", width {' and '.join(map(str, widths))}" if widths else ""
    return f"{len(members)} models of {tasks}{wide}"


@dataclass(frozen=True)
class Weighed:
    """A number's prior against thresholds that were fitted, by balanced accuracy; what is not decided counts a half.

    Args:
        measure: the number.
        prior: the prior, on all models of which the number is known.
        held_out: thresholds fitted on other cells, the mean over the divisions.
        gain: held_out less prior.
        fitted: what the models of one half of the cells set; None where they are too few.
        other_half: balanced accuracy of the prior and of the fitted one on the other half; None where models are too few.
        why_not: why the fitted threshold is not to be used; None where it is.
    """

    measure: str
    prior: Estimate
    held_out: Estimate
    gain: Estimate
    fitted: Threshold | None
    other_half: tuple[float | None, float | None]
    why_not: str | None

    @property
    def taken(self) -> bool:
        """Whether the fitted threshold is to be used."""
        return self.why_not is None


@dataclass(frozen=True)
class VerdictScore:
    """How verdicts come true under some thresholds.

    Args:
        mode: prediction mode, or all iterations.
        thresholds: in words.
        counts: how many models of each fate had each verdict: means over the divisions.
        balanced: balanced accuracy among models that solve, unknown counting a half.
        decided: fraction of these with another verdict than unknown; None where there is none, as below.
        right: fraction of those decided that came true.
    """

    mode: str
    thresholds: str
    counts: dict[str, dict[str, float]]
    balanced: Estimate
    decided: float | None
    right: float | None


@dataclass(frozen=True)
class ThresholdStudy:
    """What a population says of thresholds.

    Args:
        population: the models, in words.
        numbers: each number that can be fitted.
        verdicts: how the verdict comes true under the priors, and under thresholds fitted on other cells: all, and, if
            any is, those taken.
        other_half: the same on the cells that the taken thresholds were not fitted on, under the priors and under these.
    """

    population: str
    numbers: list[Weighed]
    verdicts: list[VerdictScore]
    other_half: list[VerdictScore]


Table = Mapping[str, Threshold]
Tables = Sequence[Sequence[Table]]
"""The thresholds of each model, for each division of the cells."""
Rows = Sequence[Mapping[str, Any]]
Among = Bool[np.ndarray, "models"] | bool


class HeldOut:
    """A population's numbers, and for each part of each division the thresholds that all other parts set.

    Args:
        data: the models.
        rows: the examination's row of each; empty where it was not examined.
    """

    def __init__(self, data: Compared, rows: Rows) -> None:
        self.data, self.population = data, population_of(data.members)
        self.known = np.array([bool(row) for row in rows])
        numbers = [numbers_of_axes(row) for row in rows]
        self.values = {
            measure: np.array([np.nan if row[measure] is None else row[measure] for row in numbers], dtype=float)
            for measure in FITTABLE
        }
        places = np.arange(len(rows))
        self.fits = [
            [(tested, self.fit_all(np.setdiff1d(places, tested), self.population)) for tested in parts]
            for parts in data.divisions
        ]

    def fit_all(self, places: Int[np.ndarray, "fitted"], origin: str) -> dict[str, Threshold]:
        """Return the thresholds that the models at some places set, for the numbers of which they know enough."""
        places = places[self.data.solves[places]]
        found = {
            measure: fit(PRIORS[measure], values[places], self.data.holds[places], origin)
            for measure, values in self.values.items()
        }
        return {measure: threshold for measure, threshold in found.items() if threshold is not None}

    def same(self, table: Table) -> Tables:
        """Return the same thresholds for every model."""
        return [[table] * len(self.known)]

    def held_out(self, measures: Sequence[str]) -> Tables:
        """Return thresholds fitted without a model's cell for some numbers, priors for the others."""
        found = []
        for parts in self.fits:
            own: list[Table] = [PRIORS] * len(self.known)
            for tested, fitted in parts:
                table = PRIORS | {measure: fitted[measure] for measure in measures if measure in fitted}
                for place in tested:
                    own[place] = table
            found.append(own)
        return found

    def status_says(self, measure: str, tables: Tables) -> Float[np.ndarray, "models"]:
        """Return what a number's status says of holding, its mean over the divisions; NaN where it is not known."""
        values = self.values[measure]
        said = [
            [SAYS.get(table[measure].status(value), UNDECIDED) for value, table in zip(values, own, strict=True)]
            for own in tables
        ]
        return np.where(np.isnan(values), np.nan, np.mean(said, axis=0))

    def balanced(self, said: Float[np.ndarray, "models"], among: Bool[np.ndarray, "models"]) -> Estimate:
        """Return the balanced accuracy of what was said of models that solve, so far as something was said."""
        return self._estimate(np.flatnonzero(among & self.data.solves & np.isfinite(said)), [said], [1.0])

    def gain(self, old: Float[np.ndarray, "models"], new: Float[np.ndarray, "models"]) -> Estimate:
        """Return by how much the balanced accuracy of one is larger than the other's, on the same models."""
        both = self.data.solves & np.isfinite(old) & np.isfinite(new)
        return self._estimate(np.flatnonzero(both), [new, old], [1.0, -1.0])

    def _estimate(
        self, places: Int[np.ndarray, "judged"], said: Sequence[np.ndarray], weights: Sequence[float]
    ) -> Estimate:
        holds = self.data.holds[places]
        if not enough(holds):
            return too_few(in_numbers(holds), len(places))

        def statistic(chosen: Int[np.ndarray, "chosen"]) -> float:
            parts = zip(weights, said, strict=True)
            return sum(weight * balanced_accuracy(one[places][chosen], holds[chosen]) for weight, one in parts)

        return estimate(statistic, self.data.cells[places])

    def score(
        self, mode: str, words: str, tables: Tables, rows: Rows, among: Bool[np.ndarray, "models"]
    ) -> VerdictScore:
        """Return how the verdicts on some models come true."""
        said = [[judged(row, table) for row, table in zip(rows, own, strict=True)] for own in tables]
        counts: dict[Verdict, Counter[str]] = {one: Counter() for one in Verdict}
        for own in said:
            for place in np.flatnonzero(among):
                counts[own[place]][self.data.outcomes[place].fate.value] += 1
        forecast = np.array([[_says(one) for one in own] for own in said])
        judged_ones = among & self.data.solves
        decided = forecast[:, judged_ones] != UNDECIDED
        right = forecast[:, judged_ones] == self.data.holds[judged_ones]
        return VerdictScore(
            mode,
            words,
            {
                one.value: {fate: count / len(said) for fate, count in found.items()}
                for one, found in counts.items()
                if found
            },
            self.balanced(forecast.mean(0), among),
            float(decided.mean()) if decided.size else None,
            float(right[decided].mean()) if decided.any() else None,
        )


def _says(one: Verdict) -> float:
    return UNDECIDED if one is Verdict.UNDECIDED else float(one in KEEPS)


def balanced_accuracy(said: Float[np.ndarray, "models"], holds: Bool[np.ndarray, "models"]) -> float:
    """Return the mean, over both outcomes, of how right what was said is; NaN where one of the two is missing.

    Args:
        said: 1 for holding, 0 for losing it, between where it is not decided.
        holds: what came true.
    """
    if holds.all() or not holds.any():
        return float("nan")
    return float(said[holds].mean() + 1 - said[~holds].mean()) / 2


def study_thresholds(data: Compared, modes: Mapping[str, Rows], fit_mode: str) -> ThresholdStudy:
    """Fit the thresholds of each number on some cells and test them on others, alone and in the verdict.

    The threshold to be used is set by the models of every second cell, from the first on, in the order of the ledger. It
    is taken where models of other cells speak (the interval of its balanced accuracy excludes 0.5), and where none of
    these is below the prior's: its balanced accuracy over the divisions, that on the other half of the cells, and the
    verdict's with this number alone fitted.

    Args:
        data: the models.
        modes: the examination's row of each model by the mode in which it was examined, empty where it was not.
        fit_mode: the mode whose numbers thresholds are fitted on.
    """
    rows = modes[fit_mode]
    study = HeldOut(data, rows)
    priors = study.same(PRIORS)
    second = data.cells % 2 == 1
    half = study.fit_all(np.flatnonzero(~second), f"half of {study.population}")

    def of_verdict(words: str, tables: Tables, mode: str = fit_mode, among: Among = True) -> VerdictScore:
        known = np.array([bool(row) for row in modes[mode]])
        return study.score(mode, words, tables, modes[mode], known & among)

    def weigh(measure: str) -> Weighed:
        tables = study.held_out([measure])
        old, new = study.status_says(measure, priors), study.status_says(measure, tables)
        fitted = half.get(measure)
        alone = [study.same({measure: one}) for one in (PRIORS[measure], fitted) if one is not None]
        there = [study.balanced(study.status_says(measure, one), second).value for one in alone]
        pairs = [
            (study.balanced(old, study.known).value, study.balanced(new, study.known).value),
            (by_priors.balanced.value, of_verdict(measure, tables).balanced.value),
            (there[0], there[1] if fitted else None),
        ]
        held_out = study.balanced(new, study.known)
        why = _why_not(held_out, pairs)
        return Weighed(measure, study.balanced(old, study.known), held_out, study.gain(old, new), fitted, pairs[2], why)

    by_priors = of_verdict(PRIOR_WORDS, priors)
    numbers = [weigh(measure) for measure in FITTABLE]
    taken = [one.measure for one in numbers if one.taken]
    sources, halves = {PRIOR_WORDS: priors, ALL_WORDS: study.held_out(FITTABLE)}, {PRIOR_WORDS: priors}
    if taken:
        sources[TAKEN_WORDS] = study.held_out(taken)
        halves[HALF_WORDS] = study.same(PRIORS | {measure: half[measure] for measure in taken})
    return ThresholdStudy(
        study.population,
        numbers,
        [of_verdict(words, tables, mode) for mode in modes for words, tables in sources.items()],
        [of_verdict(words, tables, among=second) for words, tables in halves.items()],
    )


def _why_not(held_out: Estimate, pairs: Sequence[tuple[float | None, float | None]]) -> str | None:
    """Return why a fitted threshold is not to be taken, or None.

    Args:
        held_out: its balanced accuracy over the divisions.
        pairs: the prior's and the fitted one's over the divisions, of the verdict, and on the other half.
    """
    if held_out.value is None:
        return held_out.note
    if held_out.low is None or held_out.low <= 0.5:
        return "does not tell models of other cells apart"
    where = ("over the divisions", "in the verdict", "on the other half")
    for (old, new), place in zip(pairs, where, strict=True):
        if old is None or new is None:
            return f"too few models {place}"
        if new < old:
            return f"worse than the prior {place}"
    return None if any(old != new for old, new in pairs) else "the same as the prior"
