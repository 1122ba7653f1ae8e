"""Each measurement alone: does one number that is not a predictor by itself tell which models hold?

Which way a number points was fixed by what it means, before any area was taken: an area below a half says that the
meaning did not come true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from loopscope.studies.outcomes import Compared
from loopscope.studies.population import Member
from loopscope.studies.signals import (
    AT_FURTHER,
    RANDOM,
    RANDOM_ANSWER,
    SLOPE,
    SLOWEST_TOKENS,
    SWAP,
    SWAP_ANSWER,
)
from loopscope.studies.statistics import Estimate, estimate_auc

Read = Callable[[Member], float | None]
LARGER, SMALLER = "larger", "smaller"
MEASURED = {
    SLOPE: SMALLER,
    SLOWEST_TOKENS: SMALLER,
    SWAP: SMALLER,
    SWAP_ANSWER: LARGER,
    RANDOM: SMALLER,
    RANDOM_ANSWER: LARGER,
}
"""Signals, and which way each means that a model holds: its residual falls, even its slowest tokens rest, and wherever it
sets out it comes to its own end and its own answer."""
EXAMINED = {"lyapunov": SMALLER, "growth": SMALLER, "returned": LARGER}
"""The same of an examination in prediction mode: what is near comes nearer, the state does not grow, what was pushed off
its end returns."""
EXAMINED_WORDS = {
    "lyapunov": "finite-time exponent",
    "growth": "growth of the state",
    "returned": "fraction returned to its basin",
}


@dataclass(frozen=True)
class Alone:
    """What a number tells alone, among models that solve their task.

    Args:
        name: what was measured.
        holds: whether larger or smaller means that a model holds.
        trained: area under the ROC curve, taken after the trained iterations.
        further: the same after further ones; None where it is not taken there.
    """

    name: str
    holds: str
    trained: Estimate
    further: Estimate | None


def each_alone(data: Compared) -> list[Alone]:
    """Return what each measurement tells alone."""
    signals = [
        Alone(name, holds, _area(data, _signal(name), holds), _area(data, _signal(f"{name}{AT_FURTHER}"), holds))
        for name, holds in MEASURED.items()
    ]
    examined = [
        Alone(EXAMINED_WORDS[name], holds, _area(data, _examined(name), holds), None)
        for name, holds in EXAMINED.items()
    ]
    return [*signals, *examined]


def _signal(name: str) -> Read:
    return lambda member: member.signal(name)


def _examined(name: str) -> Read:
    return lambda member: member.forecast.get(name)


def _numbers(members: Sequence[Member], read: Read) -> Float[np.ndarray, "models"]:
    return np.array([np.nan if (value := read(member)) is None else value for member in members], dtype=float)


def _area(data: Compared, read: Read, holds: str) -> Estimate:
    scores = _numbers(data.members, read) * (1 if holds == LARGER else -1)
    known = data.solves & np.isfinite(scores)
    return estimate_auc(scores[known], data.holds[known], data.cells[known])
