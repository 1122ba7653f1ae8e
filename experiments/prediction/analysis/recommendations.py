"""Which design choices retained their accuracy in a population, with the number of models behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from experiments.prediction.analysis.breakdowns import Choice, Ended, grouped, recall_name
from experiments.prediction.analysis.outcomes import Outcome, Result, results_of
from experiments.prediction.analysis.statistics import share
from experiments.prediction.population import Member

CHOICES: dict[str, Choice] = {
    "recall": lambda member: member.recall,
    "normalization": lambda member: member.norm,
    "learning rate": lambda member: f"{member.learning_rate:g}",
    "recall and learning rate": lambda member: f"{member.recall}, {member.learning_rate:g}",
}

FEW = 3
"""Pairs that tie are named if there are no more than this."""


@dataclass(frozen=True)
class Counts:
    """The models of one task that share a design choice.

    Args:
        choice: the design choice, such as "internal recall".
        models: number of models, including those whose training failed.
        solve: number of models that solve the task.
        retain: number of models that solve it and retain their accuracy until the last iteration.
        extrapolate: number of these that also solve the hardest split.
        at_least: lower end of the 95% Wilson interval of the fraction that retains. It is low where models are few.
        at_most: upper end.
        hard: mean hard accuracy at the last iteration, where a failed model counts as 0.
    """

    choice: str
    models: int
    solve: int
    retain: int
    extrapolate: int
    at_least: float
    at_most: float
    hard: float


@dataclass(frozen=True)
class Recommendation:
    """What a population says about one task.

    Args:
        task: the task.
        by_choice: counts for the values of each choice, the largest ``at_least`` first.
        pairs: counts for each recall with each normalization, in the same order.
    """

    task: str
    by_choice: dict[str, list[Counts]]
    pairs: list[Counts]

    @property
    def sentence(self) -> str:
        """The pairs that come first, with the counts behind them, and how many others these counts do not exclude."""
        first = self.pairs[0]
        if not first.retain:
            models = sum(pair.models for pair in self.pairs)
            return f"{self.task}: none of {models} models solves the task and retains its accuracy."
        ties = [pair for pair in self.pairs if (pair.retain, pair.models) == (first.retain, first.models)]
        others = [pair for pair in self.pairs if pair not in ties]
        overlap = sum(pair.at_most >= first.at_least for pair in others)
        names = (
            ", ".join(pair.choice for pair in ties) if len(ties) <= FEW else f"{len(ties)} of {len(self.pairs)} pairs"
        )
        return (
            f"{self.task}: {names} come{'s' if len(ties) == 1 else ''} first: {first.retain} of {first.models} models "
            f"{'' if len(ties) == 1 else 'each '}solve the task and retain their accuracy. The 95% intervals of {overlap} of the "
            f"{len(others)} other pairs overlap with this."
        )


def _count(choice: str, results: Sequence[Result]) -> Counts:
    retain = sum(result.retains for result in results)
    found = share(retain, len(results))
    return Counts(
        choice,
        len(results),
        sum(result.solves for result in results),
        retain,
        sum(result.outcome is Outcome.EXTRAPOLATES for result in results),
        found.low or 0.0,
        1.0 if found.high is None else found.high,
        mean(result.hard or 0.0 for result in results),
    )


def _counted(ended: Sequence[Ended], choice: Choice) -> list[Counts]:
    """Return counts for each value of a choice, the largest ``at_least`` first, then by hard accuracy."""
    groups = grouped(ended, choice)
    counted = [_count(name, [result for _, result in group]) for name, group in groups.items()]
    return sorted(counted, key=lambda one: (-one.at_least, -one.hard))


def _pair(member: Member) -> str:
    return f"{recall_name(member.recall)} with {member.norm} normalization"


def recommendations(members: Sequence[Member]) -> list[Recommendation]:
    """Return what a population's looped models say about each of its tasks."""
    members = [member for member in members if member.looped]
    found = []
    for task, own in grouped(zip(members, results_of(members), strict=True), lambda member: member.task).items():
        pairs = _counted(own, _pair)
        found.append(Recommendation(task, {name: _counted(own, choice) for name, choice in CHOICES.items()}, pairs))
    return found
