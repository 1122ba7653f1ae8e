"""The paper's tables: accuracies and what it logs, cell by cell; and model by model where iterations of training differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loopscope.studies.outcomes import Fate, Outcome
from loopscope.studies.population import Member
from loopscope.studies.signals import COSINE, NORM_RATIO, STATE_RADIUS, WEIGHT_RATIO
from loopscope.studies.statistics import middle_known
from loopscope.studies.tallies import BASELINE, grouped, normalization, recall

LOGGED = (STATE_RADIUS, WEIGHT_RATIO, NORM_RATIO, COSINE)
"""What the paper logs of a model."""


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
class ModelRow:
    """A model of a task whose models differ in their iterations of training.

    Args:
        task: the task.
        iterations: most iterations in training.
        seed: the seed.
        recall: the recall.
        norm: the normalization.
        best: best easy accuracy; None where it was not evaluated, as below.
        easy: easy accuracy at the last iteration.
        kept: that over the best; None where nothing was ever right, too.
        fate: what became of it.
    """

    task: str
    iterations: int
    seed: int
    recall: str
    norm: str
    best: float | None
    easy: float | None
    kept: float | None
    fate: Fate


def cells_table(members: Sequence[Member], became: Sequence[Outcome]) -> list[CellRow]:
    """Return the paper's tables: accuracy by task, recall, normalization, learning rate and iterations, every seed."""
    groups: dict[tuple[str, str, str, float, int], list[tuple[Member, Outcome]]] = {}
    for member, outcome in zip(members, became, strict=True):
        settings = member.settings
        key = (
            member.task,
            settings["model"]["recall"] if member.looped else BASELINE,
            settings["model"]["norm"],
            float(settings["training"]["learning_rate"]),
            settings["training"]["max_iterations"],
        )
        groups.setdefault(key, []).append((member, outcome))
    rows = []
    for (task, kind, norm, rate, iterations), group in groups.items():
        rows.append(
            CellRow(
                task,
                kind,
                norm,
                rate,
                iterations,
                [None if member.easy is None else member.easy.best for member, _ in group],
                [outcome.easy for _, outcome in group],
                [outcome.hard for _, outcome in group],
                {} if kind == BASELINE else dict(Counter(outcome.fate.value for _, outcome in group)),
                [middle_known(member.signal(name) for member, _ in group) for name in LOGGED],
            )
        )
    return rows


def models_table(members: Sequence[Member], became: Sequence[Outcome]) -> list[ModelRow]:
    """Return each looped model of the tasks whose models differ in their iterations of training, by recall and
    normalization, then by iterations and seed.
    """
    rows = []
    for task, ended in grouped(zip(members, became, strict=True), lambda member: member.task).items():
        looped = [one for one in ended if one[0].looped]
        if len({member.trained_iterations for member, _ in looped}) > 1:
            rows.extend(sorted((_model_row(task, *one) for one in looped), key=_order))
    return rows


def _order(row: ModelRow) -> tuple[str, str, int, int]:
    return row.recall, row.norm, row.iterations, row.seed


def _model_row(task: str, member: Member, end: Outcome) -> ModelRow:
    best = None if member.easy is None else member.easy.best
    seed = int(member.settings["training"].get("seed", 0))
    iterations = member.trained_iterations
    return ModelRow(task, iterations, seed, recall(member), normalization(member), best, end.easy, end.kept, end.fate)
