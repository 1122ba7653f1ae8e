"""What became of a population's models, task by task: counts and means over those that share a choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from loopscope.models.residual import BOUNDING
from loopscope.studies.outcomes import Outcome
from loopscope.studies.population import Member
from loopscope.studies.signals import STATE_RADIUS

Choice = Callable[[Member], str]
Ended = tuple[Member, Outcome]
"""A model and what became of it."""

BASELINE = "fixed depth"
"""What stands for the recall of models that are not looped."""


def recall(member: Member) -> str:
    """Return a model's recall."""
    return str(member.settings["model"]["recall"])


def normalization(member: Member) -> str:
    """Return a model's normalization."""
    return str(member.settings["model"]["norm"])


def _both(member: Member) -> str:
    return f"{recall(member)}, {normalization(member)}"


def _bound(member: Member) -> str:
    return f"{recall(member)}, {'bounded' if normalization(member) in BOUNDING else 'unbounded'}"


TALLIED: dict[str, Choice] = {
    "recall": recall,
    "normalization": normalization,
    "recall and state": _bound,
    "recall and normalization": _both,
}
"""The choices that models are tallied by. A state is bounded by the normalizations ``BOUNDING``, whatever the weights."""


@dataclass(frozen=True)
class Tally:
    """The models of one task that share a choice.

    Args:
        choice: what they share.
        models: how many there are, those whose training failed included.
        solve: how many solve the task; None of baselines of fixed depth, which have nothing to keep.
        fates: how many of each fate; none of baselines.
        easy: mean easy accuracy at the last iteration; what failed counts as 0.
        hard: the same on the hardest split.
        state_radius: the largest spectral radius of W_state; None where it is known of none, as without recall.
    """

    choice: str
    models: int
    solve: int | None
    fates: dict[str, int]
    easy: float
    hard: float
    state_radius: float | None


def grouped(ended: Iterable[Ended], choice: Choice) -> dict[str, list[Ended]]:
    """Return models with their outcomes by what they share."""
    groups: dict[str, list[Ended]] = {}
    for one in ended:
        groups.setdefault(choice(one[0]), []).append(one)
    return groups


def _tally(choice: str, group: Sequence[Ended], looped: bool) -> Tally:
    radii = [member.signal(STATE_RADIUS) for member, _ in group]
    return Tally(
        choice,
        len(group),
        sum(end.solves for _, end in group) if looped else None,
        dict(Counter(end.fate.value for _, end in group)) if looped else {},
        mean(end.easy or 0.0 for _, end in group),
        mean(end.hard or 0.0 for _, end in group),
        max((radius for radius in radii if radius is not None), default=None),
    )


def _tallies(ended: Sequence[Ended], choice: Choice, looped: bool = True) -> list[Tally]:
    """Return the models tallied by a choice, the largest mean hard accuracy first."""
    found = [_tally(name, group, looped) for name, group in grouped(ended, choice).items()]
    return sorted(found, key=lambda one: (-one.hard, -one.easy))


def tallies(members: Sequence[Member], became: Sequence[Outcome]) -> dict[str, dict[str, list[Tally]]]:
    """Return what became of the models of each task, by each choice of ``TALLIED``; baselines come by their depth."""
    found: dict[str, dict[str, list[Tally]]] = {}
    for task, ended in grouped(zip(members, became, strict=True), lambda member: member.task).items():
        looped = [one for one in ended if one[0].looped]
        baselines = [one for one in ended if not one[0].looped]
        found[task] = {name: _tallies(looped, choice) for name, choice in TALLIED.items()}
        if baselines:
            found[task][BASELINE] = _tallies(baselines, _depth, looped=False)
    return found


def _depth(member: Member) -> str:
    return f"{member.settings['model']['blocks']} blocks"
