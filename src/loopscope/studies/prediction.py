"""Does the framework predict? What a population says, from its rows alone.

Rules are fitted on models that solve their task, in some grid cells, and tested on the models of all other cells, so that
neither a seed nor a neighbour of its cell helps a forecast. Intervals resample whole cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from loopscope.errors import LoopscopeError
from loopscope.forecast import HOLDS
from loopscope.stability.leaps import LANDINGS
from loopscope.studies.outcomes import Compared, Fate, Outcome, outcomes
from loopscope.studies.population import Member
from loopscope.studies.predictors import ALL_AXES, ALL_RIVALS, LOOK, PREDICTORS, RIVALS, Predictor
from loopscope.studies.signals import (
    AT_FURTHER,
    COSINE,
    LEAP,
    LEAP_COLLAPSE,
    LEAP_KEPT,
    LONG_RUN,
    NORM_RATIO,
    STATE_RADIUS,
    WEIGHT_RATIO,
)
from loopscope.studies.statistics import (
    FEWEST,
    FOLDS,
    Bin,
    Estimate,
    classifier,
    cross_fit,
    estimate,
    estimate_ahead,
    estimate_auc,
    estimate_spearman,
    folds,
    numbered,
    regressor,
    reliability,
    too_few,
)
from loopscope.studies.tallies import BASELINE, Tally, tallies
from loopscope.studies.thresholds import ThresholdStudy, judged, study_thresholds

STANDING = (ALL_AXES, f"{LOOK}{AT_FURTHER}", LEAP_KEPT)
"""The predictors that stand for the framework in figures and in a line: the whole of it, its cheap part, and leaps."""
CLOCK = (ALL_AXES, LOOK, f"{LOOK}{AT_FURTHER}", ALL_RIVALS)
"""The predictors whose numbers the collapse clock is set by."""
LOGGED = (STATE_RADIUS, WEIGHT_RATIO, NORM_RATIO, COSINE)
"""What the paper logs of a model."""
AHEAD, IN_FULL = "prediction mode", "all iterations"
"""The two ways in which a study of prediction examines."""
LEAPT = "leaps"
"""What ``loopscope forecast`` says, by a rule that nothing was fitted for."""
DIVISIONS = 10
"""Ways in which the cells are divided into parts: with one, an area depends on its luck by 0.03."""
MEDIAN_CLOCK = "their median"


@dataclass(frozen=True)
class Performance:
    """How well a predictor forecasts.

    Args:
        name: the predictor's.
        kind: framework or rival.
        area: area under the ROC curve for holding, among models that solve.
        hard: rank correlation with the hard accuracy at the last iteration, over all models that were evaluated.
        brier: mean squared error of the probability of holding, by a rule fitted on other cells; 0.25 is a coin.
        seconds: median time for a model; None where it was not measured.
        share: median of that time over the time of running the same problems on; likewise.
        ahead: by how much the area is larger than the best short rival's, for the framework's; None for rivals, and
            where no rival has an area.
    """

    name: str
    kind: str
    area: Estimate
    hard: Estimate
    brier: Estimate
    seconds: float | None
    share: float | None
    ahead: Estimate | None = None


@dataclass(frozen=True)
class Transfer:
    """How well a rule fitted on one task forecasts another's models.

    Args:
        name: the predictor's.
        task: the task that it is tested on.
        area: area under the ROC curve there.
    """

    name: str
    task: str
    area: Estimate


@dataclass(frozen=True)
class Clock:
    """How well the iteration of collapse is told in advance.

    Args:
        name: what it is told by.
        octaves: median error of the forecast iteration, as |log2| of the ratio.
        gain: by how much that is less than what the median of the other models gives, on the same models.
    """

    name: str
    octaves: Estimate
    gain: Estimate


@dataclass(frozen=True)
class CellRow:
    """A cell of the paper's tables; what is not known is None.

    Args:
        task: the task.
        recall: the recall, or fixed depth for the baseline.
        norm: the normalization.
        learning_rate: the learning rate.
        iterations: most iterations in training.
        best: best easy accuracy, every seed.
        easy: easy accuracy at the last iteration, every seed.
        hard: hard accuracy at the last iteration, every seed.
        fates: how many models of each fate; none of the baseline, which has nothing to lose.
        logged: medians over the seeds of what the paper logs: ``LOGGED``, in its order.
    """

    task: str
    recall: str
    norm: str
    learning_rate: float
    iterations: int
    best: list[float | None]
    easy: list[float | None]
    hard: list[float | None]
    fates: dict[str, int]
    logged: list[float | None]


@dataclass(frozen=True)
class Placed:
    """A model in the figures: what was forecast and what it did.

    Args:
        run: its name.
        task: its task.
        fate: what became of it.
        forecasts: probability of holding by each of ``STANDING``, fitted on other cells; None where the model does not
            solve its task, or none could be made.
        kept: easy accuracy at the last iteration over its best.
        hard: hard accuracy at the last iteration.
        state_radius: spectral radius of W_state; None without recall.
    """

    run: str
    task: str
    fate: Fate
    forecasts: dict[str, float | None]
    kept: float | None
    hard: float | None
    state_radius: float | None


@dataclass(frozen=True)
class Analysis:
    """What a population says.

    Args:
        models: how many there are.
        cells: how many grid cells they fill.
        fates: how many models of each fate, by task.
        tallies: the same and mean accuracies by task, by recall, by normalization and by both (see ``tallies``).
        performances: every predictor.
        best_rivals: the rival of largest area, but for running on, among those that look no further than training did
            (by an empty name), and among those that look further (by what their names end in).
        calibration: forecast against observed frequency, of each of ``STANDING``.
        source: the task that rules are fitted on for other tasks.
        transfers: every predictor on every other task.
        clocks: the collapse clock.
        collapsed: models that collapse after the trained iterations, on which the clock is tested.
        earlier: models that do so before.
        verdicts: how many models of each fate have each verdict, by mode (see ``said_and_done``).
        thresholds: what the models say of thresholds.
        cells_table: the paper's tables.
        placed: every model that was evaluated.
    """

    models: int
    cells: int
    fates: dict[str, dict[str, int]]
    tallies: dict[str, dict[str, list[Tally]]]
    performances: list[Performance]
    best_rivals: dict[str, str]
    calibration: dict[str, list[Bin]]
    source: str
    transfers: list[Transfer]
    clocks: list[Clock]
    collapsed: int
    earlier: int
    verdicts: dict[str, dict[str, dict[str, int]]]
    thresholds: ThresholdStudy
    cells_table: list[CellRow]
    placed: list[Placed]


@dataclass(frozen=True)
class _Data(Compared):
    """The models that were evaluated and measured."""

    def numbers(self, predictor: Predictor) -> Float[np.ndarray, "models numbers"]:
        """Return a predictor's numbers, NaN where one is not known."""
        rows = [predictor.numbers(member) for member in self.members]
        return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=float)


def _data(members: Sequence[Member], became: Sequence[Outcome]) -> _Data:
    pairs = [pair for pair in zip(members, became, strict=True) if pair[1].easy is not None and pair[0].forecast]
    if not pairs:
        raise LoopscopeError("no model of the population was both evaluated and examined: nothing can be compared")
    kept, ends = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    cells = numbered([member.cell for member in kept])
    holds = np.array([end.holds for end in ends])
    divisions = [folds(holds.astype(int), cells, seed) for seed in range(DIVISIONS)]
    return _Data(kept, ends, cells, divisions)


def _fitted(
    values: Float[np.ndarray, "models numbers"],
    holds: Bool[np.ndarray, "models"],
    usable: Bool[np.ndarray, "models"],
    fitted: Int[np.ndarray, "fitted"],
) -> Callable[[Int[np.ndarray, "tested"]], Float[np.ndarray, "tested"]] | None:
    """Return the probability of holding by a rule fitted on the usable ones of some models; None if they are too few."""
    fitted = fitted[usable[fitted]]
    if min(holds[fitted].sum(), (~holds[fitted]).sum()) < 2:
        return None
    rule = classifier().fit(values[fitted], holds[fitted])
    return lambda tested: rule.predict_proba(values[tested])[:, 1]


def _probability(data: _Data, values: Float[np.ndarray, "models numbers"]) -> Float[np.ndarray, "models"]:
    """Return each model's probability of holding, by rules fitted on models of other cells: the mean over divisions."""
    said = [
        cross_fit(lambda fitted: _fitted(values, data.holds, data.solves, fitted), parts, len(data.members))
        for parts in data.divisions
    ]
    return _where_known(values, np.mean(said, axis=0))


def _where_known(values: Float[np.ndarray, "models numbers"], said: Float[np.ndarray, "models"]) -> np.ndarray:
    """Return what a rule said, NaN of models of which nothing at all is known, whatever it made of medians."""
    return np.where(np.isnan(values).all(1), np.nan, said)


def _scores(values: Float[np.ndarray, "models numbers"], probability: Float[np.ndarray, "models"]) -> np.ndarray:
    """Return what models are ranked by: a single number as it is, several by their fitted rule."""
    return values[:, 0] if values.shape[1] == 1 else probability


def _brier(data: _Data, probability: Float[np.ndarray, "models"]) -> Estimate:
    known = data.solves & np.isfinite(probability)
    count = int(known.sum())
    if min(int(data.holds[known].sum()), int((~data.holds[known]).sum())) < FEWEST:
        return too_few(f"{int(data.holds[known].sum())} hold, {int((~data.holds[known]).sum())} do not", count)
    squares = (probability[known] - data.holds[known]) ** 2
    return estimate(lambda chosen: float(squares[chosen].mean()), data.cells[known])


def _performance(data: _Data, predictor: Predictor, probability: np.ndarray, scores: np.ndarray) -> Performance:
    known = np.isfinite(scores)
    judged = known & data.solves
    hard = np.array([end.hard for end in data.outcomes], dtype=float)
    spent = [predictor.seconds(member) for member in data.members]
    long_runs = [member.signals.get(LONG_RUN, {}).get("seconds") for member in data.members]
    shares = [one / run for one, run in zip(spent, long_runs, strict=True) if one is not None and run]
    return Performance(
        predictor.name,
        predictor.kind,
        estimate_auc(scores[judged], data.holds[judged], data.cells[judged]),
        estimate_spearman(scores[known], hard[known], data.cells[known]),
        _brier(data, probability),
        _median(spent),
        _median(shares),
    )


def _calibration(data: _Data, probability: np.ndarray) -> list[Bin]:
    known = data.solves & np.isfinite(probability)
    return reliability(probability[known], data.holds[known])


def _ahead(data: _Data, ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    both = data.solves & np.isfinite(ours) & np.isfinite(theirs)
    return estimate_ahead(ours[both], theirs[both], data.holds[both], data.cells[both])


def _best_rivals(performances: Sequence[Performance]) -> dict[str, str]:
    """Return the rival of largest area among those that see as much, by what they see (``Predictor.at``)."""
    seen = {rival.name: rival.at for rival in RIVALS if rival.name != LONG_RUN}
    best: dict[str, tuple[float, str]] = {}
    for one in performances:
        if one.name in seen and one.area.value is not None:
            at = seen[one.name]
            best[at] = max(best.get(at, (0.0, "")), (one.area.value, one.name))
    return {at: name for at, (_, name) in best.items()}


def _compared(
    data: _Data, performance: Performance, predictor: Predictor, best: dict[str, str], scores: dict[str, np.ndarray]
) -> Performance:
    rival = best.get(predictor.at)
    if rival is None or predictor.kind == "rival":
        return performance
    return replace(performance, ahead=_ahead(data, scores[predictor.name], scores[rival]))


def _transfers(data: _Data, values: dict[str, np.ndarray]) -> tuple[str, list[Transfer]]:
    """Fit on the task of most models, test on every other one."""
    tasks = np.array([member.task for member in data.members])
    source = Counter(tasks.tolist()).most_common(1)[0][0]
    home = np.flatnonzero(tasks == source)
    found = []
    for task in dict.fromkeys(tasks.tolist()):
        if task == source:
            continue
        there = np.flatnonzero((tasks == task) & data.solves)
        holding = data.holds[there]
        for name, numbers in values.items():
            scores = numbers[there, 0]
            if numbers.shape[1] > 1:
                rule = _fitted(numbers, data.holds, data.solves, home)
                if rule is None or not len(there):
                    area = too_few(f"models of {source} to fit on, or of {task}", len(there))
                    found.append(Transfer(name, task, area))
                    continue
                scores = _where_known(numbers[there], rule(there))
            known = np.isfinite(scores)
            area = estimate_auc(scores[known], holding[known], data.cells[there][known])
            found.append(Transfer(name, task, area))
    return source, found


def _clocks(data: _Data, values: dict[str, np.ndarray]) -> tuple[list[Clock], int, int]:
    """Tell the iteration of collapse of the models that collapse after training's iterations, from those of other cells."""
    falls = [(place, end.collapse) for place, end in enumerate(data.outcomes) if end.collapse is not None]
    later = [(place, at) for place, at in falls if at > data.members[place].trained_iterations]
    places = np.array([place for place, _ in later], dtype=np.int64)
    octave = np.log2(np.array([at for _, at in later], dtype=float))
    cells = data.cells[places]
    parts = _group_folds(cells)

    def constant(fitted: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        own = float(np.median(octave[fitted]))
        return lambda tested: np.full(len(tested), own)

    middle = cross_fit(constant, parts, len(places))
    simplest = np.abs(middle - octave)

    def clock(name: str, said: np.ndarray) -> Clock:
        errors = np.abs(said - octave)
        known = np.isfinite(errors) & np.isfinite(simplest)
        if int(known.sum()) < FEWEST:
            none = too_few(f"{len(places)} collapse", len(places))
            return Clock(name, none, none)
        own, other = errors[known], simplest[known]
        return Clock(
            name,
            estimate(lambda chosen: float(np.median(own[chosen])), cells[known]),
            estimate(lambda chosen: float(np.median(other[chosen]) - np.median(own[chosen])), cells[known]),
        )

    def ridge(numbers: np.ndarray) -> np.ndarray:
        def fit(fitted: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            rule = regressor().fit(numbers[fitted], octave[fitted])
            return lambda tested: rule.predict(numbers[tested])

        return cross_fit(fit, parts, len(places))

    clocks = [clock(name, ridge(values[name][places])) for name in CLOCK]
    clocks.append(clock(LEAP_COLLAPSE, np.array([_fall_in_octaves(data.members[place]) for place in places])))
    clocks.append(clock(MEDIAN_CLOCK, middle))
    return clocks, len(later), len(falls) - len(later)


def _fall_in_octaves(member: Member) -> float:
    """Return the binary logarithm of where leaps see half lost, of the end where they see it nowhere, NaN untaken."""
    if LEAP not in member.signals:
        return math.nan
    return math.log2(_signal(member, LEAP_COLLAPSE) or LANDINGS[-1])


def _group_folds(cells: Int[np.ndarray, "models"]) -> list[np.ndarray]:
    """Return the models of each part of the cells: the cells in turn."""
    distinct = np.unique(cells)
    parts = min(FOLDS, len(distinct))
    return [np.flatnonzero(np.isin(cells, distinct[part::parts])) for part in range(parts)] if parts > 1 else []


def _signal(member: Member, name: str) -> float | None:
    return member.signals.get(name, {}).get("value")


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def said_and_done(members: Sequence[Member], became: Sequence[Outcome]) -> dict[str, dict[str, dict[str, int]]]:
    """Return how many models of each fate have each verdict, by today's rule: in prediction mode, with all iterations,
    and what leaps say of it.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for member, outcome in zip(members, became, strict=True):
        said = {mode: judged(numbers).value for mode, numbers in _examined(member).items() if numbers}
        if (kept := _signal(member, LEAP_KEPT)) is not None:
            said[LEAPT] = "keeps its answers" if kept >= HOLDS else "loses answers"
        for mode, words in said.items():
            counts = found.setdefault(mode, {}).setdefault(words, {})
            counts[outcome.fate.value] = counts.get(outcome.fate.value, 0) + 1
    return found


def _examined(member: Member) -> dict[str, dict[str, Any]]:
    return {AHEAD: member.forecast, IN_FULL: member.examined}


def cells_table(members: Sequence[Member], became: Sequence[Outcome]) -> list[CellRow]:
    """Return the paper's tables: accuracy by task, recall, normalization, learning rate and iterations, every seed."""
    grouped: dict[tuple[str, str, str, float, int], list[tuple[Member, Outcome]]] = {}
    for member, outcome in zip(members, became, strict=True):
        settings = member.settings
        key = (
            member.task,
            settings["model"]["recall"] if member.looped else BASELINE,
            settings["model"]["norm"],
            float(settings["training"]["learning_rate"]),
            settings["training"]["max_iterations"],
        )
        grouped.setdefault(key, []).append((member, outcome))
    rows = []
    for (task, recall, norm, rate, iterations), group in grouped.items():
        rows.append(
            CellRow(
                task,
                recall,
                norm,
                rate,
                iterations,
                [None if member.easy is None else member.easy.best for member, _ in group],
                [outcome.easy for _, outcome in group],
                [outcome.hard for _, outcome in group],
                {} if recall == BASELINE else dict(Counter(outcome.fate.value for _, outcome in group)),
                [_median(_signal(member, name) for member, _ in group) for name in LOGGED],
            )
        )
    return rows


def analyse(members: Sequence[Member]) -> Analysis:
    """Return what a population says about the framework's forecasts and their rivals'.

    Baselines of fixed depth stand in the tallies and the paper's tables alone.

    Raises:
        LoopscopeError: no model was both evaluated and examined, or scikit-learn is missing.
    """
    everything, became_all = members, outcomes(members)
    members = [member for member in everything if member.looped]
    became = outcomes(members)
    data = _data(members, became)
    values = {predictor.name: data.numbers(predictor) for predictor in PREDICTORS}
    probabilities = {name: _probability(data, numbers) for name, numbers in values.items()}
    scores = {name: _scores(values[name], probabilities[name]) for name in values}
    performances = [
        _performance(data, predictor, probabilities[predictor.name], scores[predictor.name]) for predictor in PREDICTORS
    ]
    best = _best_rivals(performances)
    source, transfers = _transfers(data, values)
    clocks, collapsed, earlier = _clocks(data, values)
    fates: dict[str, Counter[str]] = {}
    for member, outcome in zip(members, became, strict=True):
        fates.setdefault(member.task, Counter())[outcome.fate.value] += 1
    return Analysis(
        models=len(members),
        cells=len({member.cell for member in members}),
        fates={task: dict(counts) for task, counts in fates.items()},
        tallies=tallies(everything, became_all),
        performances=[
            _compared(data, one, predictor, best, scores)
            for one, predictor in zip(performances, PREDICTORS, strict=True)
        ],
        best_rivals=best,
        calibration={name: _calibration(data, probabilities[name]) for name in STANDING},
        source=source,
        transfers=transfers,
        clocks=clocks,
        collapsed=collapsed,
        earlier=earlier,
        verdicts=said_and_done(members, became),
        thresholds=study_thresholds(
            data,
            {AHEAD: [one.forecast for one in data.members], IN_FULL: [one.examined for one in data.members]},
            IN_FULL,
        ),
        cells_table=cells_table(everything, became_all),
        placed=[
            Placed(
                member.run,
                member.task,
                end.fate,
                {
                    name: float(probabilities[name][place])
                    if end.solves and math.isfinite(probabilities[name][place])
                    else None
                    for name in STANDING
                },
                end.kept,
                end.hard,
                _signal(member, STATE_RADIUS),
            )
            for place, (member, end) in enumerate(zip(data.members, data.outcomes, strict=True))
        ],
    )
