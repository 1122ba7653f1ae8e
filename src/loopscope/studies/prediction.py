"""Does the framework predict? What a population says, from its rows alone.

Rules are fitted on models that solve their task, in some grid cells, and tested on the models of all other cells, so that
neither a seed nor a neighbour of its cell helps a forecast. Intervals resample whole cells.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from loopscope.errors import LoopscopeError
from loopscope.metrics import auc
from loopscope.studies.alone import Alone, each_alone
from loopscope.studies.cells import CellRow, ModelRow, cells_table, models_table
from loopscope.studies.clocks import Clock, clocks
from loopscope.studies.costs import Cost, costs
from loopscope.studies.guidance import Guidance, guidance
from loopscope.studies.outcomes import Compared, Fate, Outcome, outcomes
from loopscope.studies.population import Member
from loopscope.studies.predictors import ALL_AXES, LOOK, PREDICTORS, RIVALS, Predictor
from loopscope.studies.sensitivity import Swing, swings
from loopscope.studies.signals import AT_FURTHER, LEAP_KEPT, LONG_RUN, STATE_RADIUS
from loopscope.studies.statistics import (
    Bin,
    Estimate,
    classifier,
    cross_fit,
    enough,
    estimate,
    estimate_ahead,
    estimate_auc,
    estimate_spearman,
    folds,
    in_numbers,
    middle_known,
    numbered,
    reliability,
    too_few,
)
from loopscope.studies.tallies import Tally, tallies
from loopscope.studies.thresholds import ThresholdStudy, judged, study_thresholds
from loopscope.studies.unseen import Mistake, OnUnseen, in_words, leaps_say, mistakes, on_unseen

STANDING = (ALL_AXES, f"{LOOK}{AT_FURTHER}", LEAP_KEPT)
"""The predictors that stand for the framework in figures and in a line: the whole of it, its cheap part, and leaps."""
AHEAD, IN_FULL = "prediction mode", "all iterations"
"""The two ways in which a study of prediction examines."""
LEAPT = "leaps"
"""What ``loopscope forecast`` says, by a rule that nothing was fitted for."""
DIVISIONS = 10
"""Ways in which the cells are divided into parts: with one, an area depends on its luck by 0.03."""


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
        rival: the rival of largest area among those that see as much, on the models that both know; likewise.
    """

    name: str
    kind: str
    area: Estimate
    hard: Estimate
    brier: Estimate
    seconds: float | None
    share: float | None
    ahead: Estimate | None = None
    rival: str | None = None


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
        calibration: forecast against observed frequency, of each of ``STANDING``.
        source: the task that rules are fitted on for other tasks.
        transfers: every predictor on every other task.
        clocks: the collapse clock, of all tasks, of each, and of all but each.
        collapsed: models that collapse after the trained iterations, on which the clock is tested.
        earlier: models that do so before.
        verdicts: how many models of each fate have each verdict, by mode (see ``said_and_done``).
        thresholds: what the models say of thresholds.
        unseen: what is said of the models that leaps were not made on, by all that see as much.
        mistakes: what leaps said of these and did not come true.
        costs: what forecasts cost by task.
        alone: what each measurement tells alone.
        swings: models that hold by luck of the iteration at which they are read.
        cells_table: the paper's tables.
        models_table: each model of the tasks whose models differ in their iterations of training.
        placed: every model that was evaluated.
        guidance: what kept its answers, task by task.
    """

    models: int
    cells: int
    fates: dict[str, dict[str, int]]
    tallies: dict[str, dict[str, list[Tally]]]
    performances: list[Performance]
    calibration: dict[str, list[Bin]]
    source: str
    transfers: list[Transfer]
    clocks: list[Clock]
    collapsed: int
    earlier: int
    verdicts: dict[str, dict[str, dict[str, int]]]
    thresholds: ThresholdStudy
    unseen: list[OnUnseen]
    mistakes: list[Mistake]
    costs: list[Cost]
    alone: list[Alone]
    swings: list[Swing]
    cells_table: list[CellRow]
    models_table: list[ModelRow]
    placed: list[Placed]
    guidance: list[Guidance]


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
    """Return the probability of holding by a rule fitted on the usable ones of some models, of which something is known;
    None if they are too few.
    """
    fitted = fitted[usable[fitted] & ~np.isnan(values[fitted]).all(1)]
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
    if not enough(data.holds[known]):
        return too_few(in_numbers(data.holds[known]), int(known.sum()))
    squares = (probability[known] - data.holds[known]) ** 2
    return estimate(lambda chosen: float(squares[chosen].mean()), data.cells[known])


def _performance(data: _Data, predictor: Predictor, probability: np.ndarray, scores: np.ndarray) -> Performance:
    known = np.isfinite(scores)
    judged = known & data.solves
    hard = np.array([end.hard for end in data.outcomes], dtype=float)
    return Performance(
        predictor.name,
        predictor.kind,
        estimate_auc(scores[judged], data.holds[judged], data.cells[judged]),
        estimate_spearman(scores[known], hard[known], data.cells[known]),
        _brier(data, probability),
        middle_known(map(predictor.seconds, data.members)),
        middle_known(map(predictor.share, data.members)),
    )


def _calibration(data: _Data, probability: np.ndarray) -> list[Bin]:
    known = data.solves & np.isfinite(probability)
    return reliability(probability[known], data.holds[known])


def _both_known(data: _Data, ours: np.ndarray, theirs: np.ndarray) -> Bool[np.ndarray, "models"]:
    return data.solves & np.isfinite(ours) & np.isfinite(theirs)


def _best_rival(data: _Data, predictor: Predictor, scores: dict[str, np.ndarray]) -> str | None:
    """Return the rival of largest area among those that see as much, each on the models that both know; running on to the
    end is none.
    """
    areas = {}
    for rival in RIVALS:
        if rival.at != predictor.at or rival.name == LONG_RUN:
            continue
        both = _both_known(data, scores[predictor.name], scores[rival.name])
        if enough(data.holds[both]):
            areas[rival.name] = auc(scores[rival.name][both], data.holds[both])
    return max(areas, key=areas.__getitem__, default=None)


def _compared(
    data: _Data, performance: Performance, predictor: Predictor, scores: dict[str, np.ndarray]
) -> Performance:
    rival = _best_rival(data, predictor, scores) if predictor.kind == "framework" else None
    if rival is None:
        return performance
    ours, theirs = scores[predictor.name], scores[rival]
    both = _both_known(data, ours, theirs)
    ahead = estimate_ahead(ours[both], theirs[both], data.holds[both], data.cells[both])
    return replace(performance, ahead=ahead, rival=rival)


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


def said_and_done(members: Sequence[Member], became: Sequence[Outcome]) -> dict[str, dict[str, dict[str, int]]]:
    """Return how many models of each fate have each verdict, by today's rule: in prediction mode, with all iterations,
    and what leaps say of those that they were not made on.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for member, outcome in zip(members, became, strict=True):
        said = {mode: judged(numbers).value for mode, numbers in _examined(member).items() if numbers}
        if (keeps := leaps_say(member)) is not None:
            said[LEAPT] = in_words(keeps)
        for mode, words in said.items():
            counts = found.setdefault(mode, {}).setdefault(words, {})
            counts[outcome.fate.value] = counts.get(outcome.fate.value, 0) + 1
    return found


def _examined(member: Member) -> dict[str, dict[str, Any]]:
    return {AHEAD: member.forecast, IN_FULL: member.examined}


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
    source, transfers = _transfers(data, values)
    told, collapsed, earlier = clocks(data, values)
    fates: dict[str, Counter[str]] = {}
    for member, outcome in zip(members, became, strict=True):
        fates.setdefault(member.task, Counter())[outcome.fate.value] += 1
    return Analysis(
        models=len(members),
        cells=len({member.cell for member in members}),
        fates={task: dict(counts) for task, counts in fates.items()},
        tallies=tallies(everything, became_all),
        performances=[
            _compared(data, one, predictor, scores) for one, predictor in zip(performances, PREDICTORS, strict=True)
        ],
        calibration={name: _calibration(data, probabilities[name]) for name in STANDING},
        source=source,
        transfers=transfers,
        clocks=told,
        collapsed=collapsed,
        earlier=earlier,
        verdicts=said_and_done(members, became),
        thresholds=study_thresholds(
            data,
            {AHEAD: [one.forecast for one in data.members], IN_FULL: [one.examined for one in data.members]},
            IN_FULL,
        ),
        unseen=on_unseen(data, scores),
        mistakes=mistakes(data),
        costs=costs(data.members),
        alone=each_alone(data),
        swings=swings(members, became),
        cells_table=cells_table(everything, became_all),
        models_table=models_table(members, became),
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
                member.signal(STATE_RADIUS),
            )
            for place, (member, end) in enumerate(zip(data.members, data.outcomes, strict=True))
        ],
        guidance=guidance(members),
    )
