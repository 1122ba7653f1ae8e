"""Thresholds fitted on a population, so that the verdicts of an examination come true.

A number holds and fails at the two neighbouring values between which a cut best separates the models that retain their
accuracy from those that do not. There are no models between these values. Fitted thresholds are compared to the priors, on
models of other configurations only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.prediction.analysis.outcomes import Sample
from experiments.prediction.analysis.statistics import Estimate, Share, counts_of, enough, estimate, share, too_few
from experiments.prediction.population import Member
from loopscope.stability.dependence.swap_test import SwapOutcome
from loopscope.stability.verdict import (
    ANSWERS_STAND,
    PRIORS,
    THRESHOLDS,
    Axis,
    Status,
    Threshold,
    Verdict,
    judge,
    judge_geometry,
    judge_reachability,
    verdict,
)

REACHABILITY = ("fraction arrived", ANSWERS_STAND)
DEPENDENCE = ("fraction moved", "fraction shared")
GEOMETRY = ("radius", "relative Lipschitz constant", "gradient growth per iteration")
FITTABLE = ("fraction arrived", "fraction shared", *GEOMETRY)
"""The numbers whose failing should mean that accuracy is lost. The others do not mean that: the fraction moved tells a
path-dependent model from others, and the remaining two concern answers."""
RETAINING = (Verdict.STABLE_AND_ACCURATE, Verdict.STABLE, Verdict.PATH_DEPENDENT, Verdict.UNSETTLED)
"""The verdicts that say that accuracy is retained, given the loop's own first state."""
SCORES = {Status.HOLDS: 1.0, Status.FAILS: 0.0}
"""What a status predicts: 1 for retained accuracy. Other statuses are undecided."""
UNDECIDED = 0.5
PRIOR, FITTED_ALL, FITTED_ACCEPTED = "priors", "fitted, all numbers", "fitted, accepted numbers"
HALF_ACCEPTED = "fitted on half, accepted numbers"


def numbers_of_axes(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the deciding numbers of an examination, given its numbers in a population's row.

    An older row has no fraction shared, which then follows from its swap test.
    """
    numbers = dict(row.get("numbers", {}))
    swap = row.get("recall swap") or {}
    known = sum(swap.values()) - swap.get(SwapOutcome.UNKNOWN, 0)
    decided = known > 0 and 2 * known >= sum(swap.values())
    shared = swap.get(SwapOutcome.SHARED, 0) + swap.get(SwapOutcome.STAYED, 0)
    numbers.setdefault("fraction shared", shared / known if decided else None)
    # Older rows contain accuracy up to an early iteration only. Its last value is then used for the end.
    numbers["easy accuracy"] = row.get("right at the end", (row.get("accuracy") or [None])[-1])
    return {measure: numbers.get(measure) for measure in THRESHOLDS}


def axes_of(row: Mapping[str, Any], thresholds: Mapping[str, Threshold] = THRESHOLDS) -> tuple[Axis, Axis, Axis]:
    """Return the three axes of an examination in a row by the current rule, whatever it was when the model was examined."""
    numbers = numbers_of_axes(row)
    reach = judge_reachability({measure: numbers[measure] for measure in REACHABILITY}, "", thresholds)
    dependence = judge("input-dependence", {measure: numbers[measure] for measure in DEPENDENCE}, "", thresholds)
    geometry = judge_geometry({measure: numbers[measure] for measure in GEOMETRY}, "", thresholds)
    return reach, dependence, geometry


def judged(row: Mapping[str, Any], thresholds: Mapping[str, Threshold] = THRESHOLDS) -> Verdict:
    """Return the verdict on an examination in a row by the current rule, whatever it was when the model was examined."""
    return verdict(*axes_of(row, thresholds), numbers_of_axes(row)["easy accuracy"], thresholds)


def best_gap(values: Float[np.ndarray, "models"], retains: Bool[np.ndarray, "models"]) -> tuple[float, float] | None:
    """Return the two neighbouring values between which a cut has the largest balanced accuracy.

    Larger values should mean retained accuracy. Of several such gaps, the widest is returned. None if all values are
    equal or one of the two kinds of models is missing.
    """
    distinct = np.unique(values)
    if len(distinct) < 2 or retains.all() or not retains.any():
        return None
    good, bad = np.sort(values[retains]), np.sort(values[~retains])
    above = 1 - np.searchsorted(good, distinct[1:]) / len(good)
    below = np.searchsorted(bad, distinct[1:]) / len(bad)
    accuracy = above + below
    best = np.flatnonzero(accuracy >= accuracy.max() - 1e-9)
    place = best[np.argmax(np.diff(distinct)[best])]
    return float(distinct[place]), float(distinct[place + 1])


def fit(
    prior: Threshold, values: Float[np.ndarray, "models"], retains: Bool[np.ndarray, "models"], origin: str
) -> Threshold | None:
    """Fit a threshold on models that solve their task; return None if they are too few. NaN values are left out.

    Args:
        prior: the prior threshold of the number, which says whether larger is better.
        values: the number of each model.
        retains: whether each model retains its accuracy.
        origin: origin of the fitted threshold, in words.
    """
    known = np.isfinite(values)
    values, retains = values[known], retains[known]
    if not enough(retains):
        return None
    sign = 1.0 if prior.larger_is == "better" else -1.0
    gap = best_gap(sign * values, retains)
    return None if gap is None else replace(prior, holds=sign * gap[1], fails=sign * gap[0], origin=origin)


def population_in_words(members: Sequence[Member]) -> str:
    """Return some models in words, such as "90 models of prefix sums, width 64"."""
    *others, last = dict.fromkeys(member.task.replace("-", " ") for member in members)
    tasks = f"{', '.join(others)} and {last}" if others else last
    widths = sorted({width for member in members if (width := member.settings["model"].get("width")) is not None})
    wide = f", width {' and '.join(map(str, widths))}" if widths else ""
    return f"{len(members)} models of {tasks}{wide}"


@dataclass(frozen=True)
class FittedNumber:
    """A number's prior threshold against fitted ones, by balanced accuracy. An undecided model counts half.

    Args:
        measure: the number.
        prior: balanced accuracy of the prior, on all models for which the number is known.
        held_out: balanced accuracy of thresholds fitted on other configurations, averaged over the divisions.
        gain: the latter minus the former.
        fitted: threshold fitted on one half of the configurations; None if there are too few models.
        other_half: balanced accuracy of the prior and of the fitted threshold on the other half; None likewise.
        why_not: why the fitted threshold is not accepted; None if it is.
    """

    measure: str
    prior: Estimate
    held_out: Estimate
    gain: Estimate
    fitted: Threshold | None
    other_half: tuple[float | None, float | None]
    why_not: str | None

    @property
    def accepted(self) -> bool:
        """Whether the fitted threshold is accepted."""
        return self.why_not is None


@dataclass(frozen=True)
class VerdictScore:
    """How often verdicts come true under some thresholds.

    Args:
        mode: prediction mode, or all iterations.
        thresholds: the thresholds, in words.
        counts: number of models by verdict and outcome, averaged over the divisions.
        balanced: balanced accuracy among models that solve their task, where the verdict "undecided" counts half.
        decided: fraction of these models with another verdict than "undecided"; None if there is no such model.
        right: fraction of the decided ones that came true; None if none is decided.
    """

    mode: str
    thresholds: str
    counts: dict[str, dict[str, float]]
    balanced: Estimate
    decided: float | None
    right: float | None

    @property
    def decided_models(self) -> Share:
        """The number of models that solve their task and are decided, averaged over the divisions, out of all that solve it."""
        models = self.balanced.models
        return share((self.decided or 0.0) * models, models)

    @property
    def right_models(self) -> Share:
        """The number of decided models of which the verdict came true, averaged likewise, out of all that are decided."""
        decided = self.decided_models.count
        return share((self.right or 0.0) * decided, decided)


@dataclass(frozen=True)
class ThresholdStudy:
    """What a population says about thresholds.

    Args:
        population: the models, in words.
        numbers: every number that can be fitted.
        verdicts: scores of verdicts under the priors and under thresholds fitted on other configurations: of all numbers
            and, if there are any, of the accepted ones.
        other_half: the same on the half of the configurations on which the accepted thresholds were not fitted.
    """

    population: str
    numbers: list[FittedNumber]
    verdicts: list[VerdictScore]
    other_half: list[VerdictScore]

    @property
    def accepted(self) -> list[Threshold]:
        """The fitted thresholds that are accepted."""
        return [one.fitted for one in self.numbers if one.accepted and one.fitted is not None]

    def verdict_by_the_rule(self, mode: str) -> VerdictScore:
        """Return how often the verdict in a mode comes true with the accepted thresholds, or with the priors if there are none."""
        words = FITTED_ACCEPTED if self.accepted else PRIOR
        return next(one for one in self.verdicts if one.mode == mode and one.thresholds == words)


Table = Mapping[str, Threshold]
Tables = Sequence[Sequence[Table]]
"""The thresholds of each model, for each division of the configurations."""
Rows = Sequence[Mapping[str, Any]]
Among = Bool[np.ndarray, "models"] | bool


class HeldOut:
    """The numbers of a population, and for each part of each division the thresholds fitted on all other parts.

    Args:
        sample: the models.
        rows: numbers of each model's examination; empty for a model that was not examined.
    """

    def __init__(self, sample: Sample, rows: Rows) -> None:
        self.sample, self.population = sample, population_in_words(sample.members)
        self.known = np.array([bool(row) for row in rows])
        numbers = [numbers_of_axes(row) for row in rows]
        self.values = {
            measure: np.array([np.nan if row[measure] is None else row[measure] for row in numbers], dtype=float)
            for measure in FITTABLE
        }
        places = np.arange(len(rows))
        self.fits = [
            [(tested, self.fit_all(np.setdiff1d(places, tested), self.population)) for tested in parts]
            for parts in sample.divisions
        ]

    def fit_all(self, places: Int[np.ndarray, "fitted"], origin: str) -> dict[str, Threshold]:
        """Return the thresholds fitted on the models at some places, for the numbers that enough of them have."""
        places = places[self.sample.solves[places]]
        found = {
            measure: fit(PRIORS[measure], values[places], self.sample.retains[places], origin)
            for measure, values in self.values.items()
        }
        return {measure: threshold for measure, threshold in found.items() if threshold is not None}

    def same(self, table: Table) -> Tables:
        """Return the same thresholds for every model."""
        return [[table] * len(self.known)]

    def held_out(self, measures: Sequence[str]) -> Tables:
        """Return thresholds fitted without a model's configuration for some numbers, and priors for the others."""
        found = []
        for parts in self.fits:
            own: list[Table] = [PRIORS] * len(self.known)
            for tested, fitted in parts:
                table = PRIORS | {measure: fitted[measure] for measure in measures if measure in fitted}
                for place in tested:
                    own[place] = table
            found.append(own)
        return found

    def status_scores(self, measure: str, tables: Tables) -> Float[np.ndarray, "models"]:
        """Return what a number's status predicts, averaged over the divisions; NaN if the number is not known."""
        values = self.values[measure]
        scores = [
            [SCORES.get(table[measure].status(value), UNDECIDED) for value, table in zip(values, own, strict=True)]
            for own in tables
        ]
        return np.where(np.isnan(values), np.nan, np.mean(scores, axis=0))

    def balanced(self, scores: Float[np.ndarray, "models"], among: Bool[np.ndarray, "models"]) -> Estimate:
        """Return the balanced accuracy of predictions for models that solve their task, where there is a prediction."""
        return self._estimate(np.flatnonzero(among & self.sample.solves & np.isfinite(scores)), [scores], [1.0])

    def gain(self, old: Float[np.ndarray, "models"], new: Float[np.ndarray, "models"]) -> Estimate:
        """Return by how much the balanced accuracy of new predictions exceeds that of old ones, on the same models."""
        both = self.sample.solves & np.isfinite(old) & np.isfinite(new)
        return self._estimate(np.flatnonzero(both), [new, old], [1.0, -1.0])

    def _estimate(
        self, places: Int[np.ndarray, "judged"], scores: Sequence[np.ndarray], weights: Sequence[float]
    ) -> Estimate:
        retains = self.sample.retains[places]
        if not enough(retains):
            return too_few(counts_of(retains), len(places))

        def statistic(chosen: Int[np.ndarray, "chosen"]) -> float:
            parts = zip(weights, scores, strict=True)
            return sum(weight * balanced_accuracy(one[places][chosen], retains[chosen]) for weight, one in parts)

        return estimate(statistic, self.sample.configurations[places])

    def score(
        self, mode: str, words: str, tables: Tables, rows: Rows, among: Bool[np.ndarray, "models"]
    ) -> VerdictScore:
        """Return how often the verdicts on some models come true."""
        verdicts = [[judged(row, table) for row, table in zip(rows, own, strict=True)] for own in tables]
        counts: dict[Verdict, Counter[str]] = {one: Counter() for one in Verdict}
        for own in verdicts:
            for place in np.flatnonzero(among):
                counts[own[place]][self.sample.results[place].outcome.value] += 1
        scores = np.array([[_verdict_score(one) for one in own] for own in verdicts])
        solving = among & self.sample.solves
        decided = scores[:, solving] != UNDECIDED
        right = scores[:, solving] == self.sample.retains[solving]
        return VerdictScore(
            mode,
            words,
            {
                one.value: {outcome: count / len(verdicts) for outcome, count in found.items()}
                for one, found in counts.items()
                if found
            },
            self.balanced(scores.mean(0), among),
            float(decided.mean()) if decided.size else None,
            float(right[decided].mean()) if decided.any() else None,
        )


def _verdict_score(one: Verdict) -> float:
    return UNDECIDED if one is Verdict.UNDECIDED else float(one in RETAINING)


def balanced_accuracy(scores: Float[np.ndarray, "models"], retains: Bool[np.ndarray, "models"]) -> float:
    """Return the mean accuracy over the models that retain their accuracy and over those that do not.

    NaN if one of the two kinds is missing.

    Args:
        scores: predictions, 1 for retained accuracy, 0 for the opposite, between the two if undecided.
        retains: what came true.
    """
    if retains.all() or not retains.any():
        return float("nan")
    return float(scores[retains].mean() + 1 - scores[~retains].mean()) / 2


def study_thresholds(sample: Sample, modes: Mapping[str, Rows], fit_mode: str) -> ThresholdStudy:
    """Fit the thresholds of each number on some configurations and test them on others, alone and in the verdict.

    The proposed threshold is fitted on every second configuration, starting with the first, in the order of the ledger.
    It is accepted under two conditions. First, it distinguishes the models of other configurations: the interval of its
    balanced accuracy excludes 0.5. Second, it is never worse than the prior: neither in its balanced accuracy over the
    divisions, nor on the other half, nor in that of the verdict with this number alone fitted.

    Args:
        sample: the models.
        modes: numbers of each model's examination by mode, empty for a model that was not examined.
        fit_mode: the mode whose numbers thresholds are fitted on.
    """
    rows = modes[fit_mode]
    study = HeldOut(sample, rows)
    priors = study.same(PRIORS)
    second = sample.configurations % 2 == 1
    half = study.fit_all(np.flatnonzero(~second), f"half of {study.population}")

    def of_verdict(words: str, tables: Tables, mode: str = fit_mode, among: Among = True) -> VerdictScore:
        known = np.array([bool(row) for row in modes[mode]])
        return study.score(mode, words, tables, modes[mode], known & among)

    def weigh(measure: str) -> FittedNumber:
        tables = study.held_out([measure])
        old, new = study.status_scores(measure, priors), study.status_scores(measure, tables)
        fitted = half.get(measure)
        alone = [study.same({measure: one}) for one in (PRIORS[measure], fitted) if one is not None]
        there = [study.balanced(study.status_scores(measure, one), second).value for one in alone]
        pairs = [
            (study.balanced(old, study.known).value, study.balanced(new, study.known).value),
            (by_priors.balanced.value, of_verdict(measure, tables).balanced.value),
            (there[0], there[1] if fitted else None),
        ]
        held_out = study.balanced(new, study.known)
        why = _why_not(held_out, pairs)
        prior = study.balanced(old, study.known)
        return FittedNumber(measure, prior, held_out, study.gain(old, new), fitted, pairs[2], why)

    by_priors = of_verdict(PRIOR, priors)
    numbers = [weigh(measure) for measure in FITTABLE]
    accepted = [one.measure for one in numbers if one.accepted]
    sources, halves = {PRIOR: priors, FITTED_ALL: study.held_out(FITTABLE)}, {PRIOR: priors}
    if accepted:
        sources[FITTED_ACCEPTED] = study.held_out(accepted)
        halves[HALF_ACCEPTED] = study.same(PRIORS | {measure: half[measure] for measure in accepted})
    return ThresholdStudy(
        study.population,
        numbers,
        [of_verdict(words, tables, mode) for mode in modes for words, tables in sources.items()],
        [of_verdict(words, tables, among=second) for words, tables in halves.items()],
    )


def _why_not(held_out: Estimate, pairs: Sequence[tuple[float | None, float | None]]) -> str | None:
    """Return why a fitted threshold is not accepted, or None.

    Args:
        held_out: its balanced accuracy over the divisions.
        pairs: balanced accuracy of the prior and of the fitted threshold: over the divisions, in the verdict, and on the
            other half.
    """
    if held_out.value is None:
        return held_out.note
    if held_out.low is None or held_out.low <= 0.5:
        return "does not tell models of other configurations apart"
    where = ("over the divisions", "in the verdict", "on the other half")
    for (old, new), place in zip(pairs, where, strict=True):
        if old is None or new is None:
            return f"too few models {place}"
        if new < old:
            return f"worse than the prior {place}"
    return None if any(old != new for old, new in pairs) else "the same as the prior"
