"""Breakdowns of a population's outcomes: counts and mean accuracies of the models that share a design choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from experiments.prediction.analysis.outcomes import Result, outcome_counts
from experiments.prediction.population import Member
from experiments.prediction.signals import STATE_RADIUS
from loopscope.models.residual import BOUNDING

Choice = Callable[[Member], str]
Ended = tuple[Member, Result]
"""A model and its result."""

BASELINE = "fixed depth"
"""The name that takes the place of the recall for models that are not looped."""


def recall_name(recall: str) -> str:
    """Return the words for a recall, such as "internal recall" or "no recall"."""
    return f"{'no' if recall == 'none' else recall} recall"


def recall_and_norm(member: Member) -> str:
    """Return a model's recall and normalization."""
    return f"{member.recall}, {member.norm}"


def _recall_and_bound(member: Member) -> str:
    return f"{member.recall}, {'bounded' if member.norm in BOUNDING else 'unbounded'}"


CHOICES: dict[str, Choice] = {
    "recall": lambda member: member.recall,
    "normalization": lambda member: member.norm,
    "recall and state": _recall_and_bound,
    "recall and normalization": recall_and_norm,
}
"""The design choices. The normalizations in ``BOUNDING`` bound the state, whatever the weights are."""


@dataclass(frozen=True)
class Group:
    """The models of one task that share a design choice.

    Args:
        choice: the design choice.
        models: number of models, including those whose training failed.
        solve: number of models that solve the task; None for baselines, whose accuracy cannot degrade over iterations.
        outcomes: number of models by outcome; empty for baselines.
        easy: mean easy accuracy at the last iteration, where a failed model counts as 0.
        hard: the same on the hardest split.
        state_radius: largest spectral radius of W_state; None if it is known for no model, as without recall.
    """

    choice: str
    models: int
    solve: int | None
    outcomes: dict[str, int]
    easy: float
    hard: float
    state_radius: float | None


def grouped(ended: Iterable[Ended], choice: Choice) -> dict[str, list[Ended]]:
    """Return models with their results, grouped by a choice."""
    groups: dict[str, list[Ended]] = {}
    for one in ended:
        groups.setdefault(choice(one[0]), []).append(one)
    return groups


def _group(choice: str, ended: Sequence[Ended], looped: bool) -> Group:
    radii = [member.signal(STATE_RADIUS) for member, _ in ended]
    return Group(
        choice,
        len(ended),
        sum(result.solves for _, result in ended) if looped else None,
        outcome_counts(result for _, result in ended) if looped else {},
        mean(result.easy or 0.0 for _, result in ended),
        mean(result.hard or 0.0 for _, result in ended),
        max((radius for radius in radii if radius is not None), default=None),
    )


def _groups(ended: Sequence[Ended], choice: Choice, looped: bool = True) -> list[Group]:
    """Return the groups of a choice, the largest mean hard accuracy first."""
    found = [_group(name, group, looped) for name, group in grouped(ended, choice).items()]
    return sorted(found, key=lambda one: (-one.hard, -one.easy))


def breakdowns(members: Sequence[Member], results: Sequence[Result]) -> dict[str, dict[str, list[Group]]]:
    """Return the groups by task and by each of ``CHOICES``, and the baselines of each task by their depth."""
    found: dict[str, dict[str, list[Group]]] = {}
    for task, ended in grouped(zip(members, results, strict=True), lambda member: member.task).items():
        looped = [one for one in ended if one[0].looped]
        baselines = [one for one in ended if not one[0].looped]
        found[task] = {name: _groups(looped, choice) for name, choice in CHOICES.items()}
        if baselines:
            found[task][BASELINE] = _groups(baselines, _depth, looped=False)
    return found


def _depth(member: Member) -> str:
    return f"{member.settings['model']['blocks']} blocks"
