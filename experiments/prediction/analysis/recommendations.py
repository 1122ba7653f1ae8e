"""Which design choices retained their accuracy in a population, with the number of models behind each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from experiments.prediction.analysis.breakdowns import Choice, Ended, grouped
from experiments.prediction.analysis.outcomes import Outcome, Result, results_of
from experiments.prediction.analysis.statistics import share
from experiments.prediction.population import Member

CHOICES: dict[str, Choice] = {
    "recall": lambda member: member.recall,
    "normalization": lambda member: member.norm,
    "learning rate": lambda member: f"{member.learning_rate:g}",
}


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
        hard: mean hard accuracy at the last iteration, where a failed model counts as 0.
    """

    choice: str
    models: int
    solve: int
    retain: int
    extrapolate: int
    at_least: float
    hard: float


@dataclass(frozen=True)
class Recommendation:
    """What a population says about one task.

    Args:
        task: the task.
        by_choice: counts for the values of each choice, the largest ``at_least`` first.
        pairs: counts for each recall with each normalization, in the same order.
        rates: counts for the learning rates of the first pair, in the same order.
    """

    task: str
    by_choice: dict[str, list[Counts]]
    pairs: list[Counts]
    rates: list[Counts]

    @property
    def sentence(self) -> str:
        """The recommended choice, with the counts behind it."""
        first = self.pairs[0]
        if not first.retain:
            models = sum(pair.models for pair in self.pairs)
            return f"{self.task}: none of {models} models solves the task and retains its accuracy."
        rate = self.rates[0]
        return (
            f"{self.task}: {first.choice}, with which {first.retain} of {first.models} models solve the task and retain "
            f"their accuracy. At learning rate {rate.choice}, {rate.retain} of {rate.models} do, {rate.extrapolate} solve the "
            f"hardest split too, and mean accuracy there is {100 * rate.hard:.0f}%."
        )


def _count(choice: str, results: Sequence[Result]) -> Counts:
    retain = sum(result.retains for result in results)
    return Counts(
        choice,
        len(results),
        sum(result.solves for result in results),
        retain,
        sum(result.outcome is Outcome.EXTRAPOLATES for result in results),
        share(retain, len(results)).low or 0.0,
        mean(result.hard or 0.0 for result in results),
    )


def _counted(ended: Sequence[Ended], choice: Choice) -> list[Counts]:
    """Return counts for each value of a choice, the largest ``at_least`` first, then by hard accuracy."""
    groups = grouped(ended, choice)
    counted = [_count(name, [result for _, result in group]) for name, group in groups.items()]
    return sorted(counted, key=lambda one: (-one.at_least, -one.hard))


def _pair(member: Member) -> str:
    return f"{'no' if member.recall == 'none' else member.recall} recall with {member.norm} normalization"


def recommendations(members: Sequence[Member]) -> list[Recommendation]:
    """Return what a population's looped models say about each of its tasks."""
    members = [member for member in members if member.looped]
    found = []
    for task, own in grouped(zip(members, results_of(members), strict=True), lambda member: member.task).items():
        pairs = _counted(own, _pair)
        best = [one for one in own if _pair(one[0]) == pairs[0].choice]
        found.append(
            Recommendation(
                task,
                {name: _counted(own, choice) for name, choice in CHOICES.items()},
                pairs,
                _counted(best, CHOICES["learning rate"]),
            )
        )
    return found
