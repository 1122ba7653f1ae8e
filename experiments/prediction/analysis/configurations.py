"""The paper's tables: accuracy and the logged quantities by configuration, and model by model where training differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.prediction.analysis.breakdowns import BASELINE, grouped
from experiments.prediction.analysis.outcomes import Outcome, Result, outcome_counts
from experiments.prediction.analysis.statistics import known_median
from experiments.prediction.population import Member
from experiments.prediction.signals import COSINE, NORM_RATIO, STATE_RADIUS, WEIGHT_RATIO

LOGGED = (STATE_RADIUS, WEIGHT_RATIO, NORM_RATIO, COSINE)
"""The quantities that the paper logs of every model."""


@dataclass(frozen=True)
class ConfigurationRow:
    """The models of one configuration, which differ in their seed alone. Numbers that are not known are None.

    Args:
        task: the task.
        recall: the recall, or "fixed depth" for the baseline.
        norm: the normalization.
        learning_rate: the learning rate.
        iterations: largest number of iterations in training.
        best: best easy accuracy of each seed.
        easy: easy accuracy at the last iteration of each seed.
        hard: hard accuracy at the last iteration of each seed.
        outcomes: number of models by outcome; empty for the baseline, which has no iterations to degrade over.
        logged: medians over the seeds of the quantities in ``LOGGED``, in that order.
    """

    task: str
    recall: str
    norm: str
    learning_rate: float
    iterations: int
    best: list[float | None]
    easy: list[float | None]
    hard: list[float | None]
    outcomes: dict[str, int]
    logged: list[float | None]


@dataclass(frozen=True)
class ModelRow:
    """One model of a task whose models were trained with different numbers of iterations.

    Args:
        task: the task.
        iterations: largest number of iterations in training.
        seed: the seed.
        recall: the recall.
        norm: the normalization.
        best: best easy accuracy; None if the model was not evaluated.
        easy: easy accuracy at the last iteration; None likewise.
        retained: the latter over the former; None also if nothing was ever right.
        outcome: the outcome.
    """

    task: str
    iterations: int
    seed: int
    recall: str
    norm: str
    best: float | None
    easy: float | None
    retained: float | None
    outcome: Outcome


def configuration_rows(members: Sequence[Member], results: Sequence[Result]) -> list[ConfigurationRow]:
    """Return accuracy by task, recall, normalization, learning rate and iterations, with every seed."""
    groups: dict[tuple[str, str, str, float, int], list[tuple[Member, Result]]] = {}
    for member, result in zip(members, results, strict=True):
        recall = member.recall if member.looped else BASELINE
        key = (member.task, recall, member.norm, member.learning_rate, member.trained_iterations)
        groups.setdefault(key, []).append((member, result))
    return [
        ConfigurationRow(
            *key,
            best=[None if member.easy is None else member.easy.best for member, _ in group],
            easy=[result.easy for _, result in group],
            hard=[result.hard for _, result in group],
            outcomes={} if key[1] == BASELINE else outcome_counts(result for _, result in group),
            logged=[known_median(member.signal(name) for member, _ in group) for name in LOGGED],
        )
        for key, group in groups.items()
    ]


def model_rows(members: Sequence[Member], results: Sequence[Result]) -> list[ModelRow]:
    """Return the looped models of every task whose models were trained with different numbers of iterations.

    Rows are sorted by recall, normalization, iterations and seed.
    """
    rows = []
    for task, group in grouped(zip(members, results, strict=True), lambda member: member.task).items():
        looped = [one for one in group if one[0].looped]
        if len({member.trained_iterations for member, _ in looped}) > 1:
            rows.extend(sorted((_model_row(task, *one) for one in looped), key=_order))
    return rows


def _order(row: ModelRow) -> tuple[str, str, int, int]:
    return row.recall, row.norm, row.iterations, row.seed


def _model_row(task: str, member: Member, result: Result) -> ModelRow:
    return ModelRow(
        task,
        member.trained_iterations,
        int(member.settings["training"].get("seed", 0)),
        member.recall,
        member.norm,
        None if member.easy is None else member.easy.best,
        result.easy,
        result.retained,
        result.outcome,
    )
