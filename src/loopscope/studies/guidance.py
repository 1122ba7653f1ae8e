"""Guidance for who builds a looped model: what kept its answers in a population, and how many models say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from scipy.stats import binomtest

from loopscope.studies.outcomes import Fate, Outcome, outcomes
from loopscope.studies.population import Member
from loopscope.studies.tallies import Choice, Ended, grouped, normalization, recall

CHOICES: dict[str, Choice] = {
    "recall": recall,
    "normalization": normalization,
    "learning rate": lambda member: f"{float(member.settings['training']['learning_rate']):g}",
}


@dataclass(frozen=True)
class Counted:
    """The models of one task that share a choice.

    Args:
        choice: what they share, such as "internal recall".
        models: how many there are, those whose training failed included.
        solve: how many solve the task.
        hold: how many solve it and keep that to the last iteration.
        extrapolate: how many of these solve the hardest split too.
        sure: lower end of the 95% interval (Wilson) of the fraction that holds: what so few models vouch for.
        hard: mean hard accuracy at the last iteration; what failed counts as 0.
    """

    choice: str
    models: int
    solve: int
    hold: int
    extrapolate: int
    sure: float
    hard: float


@dataclass(frozen=True)
class Guidance:
    """What a population says about one task.

    Args:
        task: the task.
        by_choice: each choice's values, the surest first.
        pairs: recall with normalization, the surest first.
        rates: learning rates of the first pair, the surest first.
    """

    task: str
    by_choice: dict[str, list[Counted]]
    pairs: list[Counted]
    rates: list[Counted]

    @property
    def sentence(self) -> str:
        """The choice to make, with the counts behind it."""
        first = self.pairs[0]
        if not first.hold:
            return f"{self.task}: no model of {sum(pair.models for pair in self.pairs)} solves the task and keeps it."
        rate = self.rates[0]
        return (
            f"{self.task}: {first.choice}: {first.hold} of {first.models} models solve it and keep that; learning rate "
            f"{rate.choice}: {rate.hold} of {rate.models} of these; {rate.extrapolate} of them solve the hardest split too, "
            f"whose mean accuracy is {100 * rate.hard:.0f}%."
        )


def _count(choice: str, ends: Sequence[Outcome]) -> Counted:
    hold = sum(end.holds for end in ends)
    return Counted(
        choice,
        len(ends),
        sum(end.solves for end in ends),
        hold,
        sum(end.fate is Fate.EXTRAPOLATES for end in ends),
        float(binomtest(hold, len(ends)).proportion_ci(method="wilson").low),
        mean(end.hard or 0.0 for end in ends),
    )


def _counted(ended: Sequence[Ended], choice: Choice) -> list[Counted]:
    """Return the models counted by a choice: the surest to hold first, then by hard accuracy."""
    groups = grouped(ended, choice)
    counted = [_count(name, [outcome for _, outcome in group]) for name, group in groups.items()]
    return sorted(counted, key=lambda one: (-one.sure, -one.hard))


def _pair(member: Member) -> str:
    return f"{recall(member)} recall with {normalization(member)} normalization"


def guidance(members: Sequence[Member]) -> list[Guidance]:
    """Return what a population's looped models say about each of its tasks."""
    members = [member for member in members if member.looped]
    found = []
    for task, own in grouped(zip(members, outcomes(members), strict=True), lambda member: member.task).items():
        pairs = _counted(own, _pair)
        best = [one for one in own if _pair(one[0]) == pairs[0].choice]
        found.append(
            Guidance(
                task,
                {name: _counted(own, choice) for name, choice in CHOICES.items()},
                pairs,
                _counted(best, CHOICES["learning rate"]),
            )
        )
    return found
