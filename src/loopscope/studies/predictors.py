"""Predictors: what a forecast of a model is made from, and what it costs.

A predictor of one number is used as it is, the larger the likelier that the model holds; one of several numbers needs a
rule that is fitted. None of them looks at an outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from loopscope.studies.population import Member
from loopscope.studies.signals import (
    AT_FURTHER,
    COSINE,
    EASY_ACCURACY,
    LAST_RESIDUAL,
    LEAP,
    LEAP_ANSWER,
    LEAP_KEPT,
    LONG_RUN,
    NORM_RATIO,
    OF_WEIGHTS,
    POWER_ITERATION,
    RANDOM,
    RANDOM_ANSWER,
    SLOPE,
    SLOWEST_TOKENS,
    STATE_RADIUS,
    SWAP,
    SWAP_ANSWER,
    WEIGHT_RATIO,
)

Number = float | None
SAYS = {"holds": 1.0, "borderline": 0.5, "unknown": 0.5, "fails": 0.0}
"""What an axis' status counts for in the sum of the three."""
REACHABILITY, INPUT_DEPENDENCE, GEOMETRY = "reachability", "input-dependence", "geometry"
AXES = (REACHABILITY, INPUT_DEPENDENCE, GEOMETRY)
ALL_AXES = "all three axes"
ALL_RIVALS = "all short rivals"
MADE_ON = "prediction-prefix-sums"
"""The study on whose models leaps were made: what they say of these is no forecast."""
LOOK = "a brief look"
PARTS = {
    REACHABILITY: ("orbits",),
    INPUT_DEPENDENCE: ("orbits", "swaps", "distinct fixed points", "variance", "sensitivity"),
    GEOMETRY: ("orbits", "spectrum", "gradients", "radial mode", "smoothness", "resolvent", "transient growth"),
}
"""The parts of an examination that each axis rests on."""


@dataclass(frozen=True)
class Predictor:
    """A way to forecast.

    Args:
        name: its name.
        kind: framework, or rival.
        numbers: what it is made from; None where a number is not known for a model.
        seconds: what it costs for a model.
        at: empty for one that sees the trained iterations alone, else what its signals' names end in; predictors that
            see as much are compared with each other.
    """

    name: str
    kind: Literal["framework", "rival"]
    numbers: Callable[[Member], list[Number]]
    seconds: Callable[[Member], Number]
    at: str = ""

    def share(self, member: Member) -> Number:
        """Return what it costs over what running the same problems on costs; None where either was not measured."""
        spent, whole = self.seconds(member), member.signal_seconds(LONG_RUN)
        return spent / whole if spent is not None and whole else None


def unseen(member: Member) -> bool:
    """Return whether leaps were made without a model's study."""
    return member.study != MADE_ON


def _log(value: Number) -> Number:
    """Return the logarithm to base 10; exactly zero, as a residual can be, counts as rounding."""
    return None if value is None or value < 0 else math.log10(max(value, 1e-8))


def _seconds_of(member: Member, parts: Sequence[str], signals: Sequence[str]) -> Number:
    spent = member.forecast.get("seconds")
    if spent is None:
        return None
    beside = [member.signal_seconds(name) or 0.0 for name in signals]
    return sum(spent.get(part, 0.0) for part in dict.fromkeys(parts)) + sum(beside)


def _reachability(member: Member) -> list[Number]:
    found = member.forecast
    residual = (found.get("residual") or [None])[-1]
    return [found.get("arrived"), found.get("rate"), _log(residual), found.get("growth"), found.get("lyapunov")]


def _input_dependence(member: Member) -> list[Number]:
    found = member.forecast
    return [found.get("moved"), member.signal(SWAP), found.get("variance share")]


def _geometry(member: Member) -> list[Number]:
    found = member.forecast
    logs = (found.get("log gradient growth"), found.get("log relative lipschitz"), found.get("log resolvent"))
    return [_log(found.get("radius")), *logs]


def _all_axes(member: Member) -> list[Number]:
    return [*_reachability(member), *_input_dependence(member), *_geometry(member)]


def _statuses(member: Member) -> list[Number]:
    axes = member.forecast.get("axes")
    return [None if axes is None else sum(SAYS[axes[name]] for name in AXES) / len(AXES)]


def _all_parts(member: Member) -> Number:
    return _seconds_of(member, ["total"], [SWAP])


def _look(at: str) -> Predictor:
    """Return the brief look after the trained iterations, or after further ones.

    Args:
        at: what follows the names of the signals.
    """
    in_logs = tuple(f"{name}{at}" for name in (LAST_RESIDUAL, SLOWEST_TOKENS, SWAP, RANDOM))
    as_they_are = tuple(f"{name}{at}" for name in (SLOPE, SWAP_ANSWER, RANDOM_ANSWER))

    def numbers(member: Member) -> list[Number]:
        return [
            *(_log(member.signal(name)) for name in in_logs),
            *(member.signal(name) for name in as_they_are),
        ]

    def seconds(member: Member) -> Number:
        # Each of the two further passes counts the first one in, which is paid once.
        first, swap, random = (member.signal_seconds(f"{name}{at}") for name in (LAST_RESIDUAL, SWAP, RANDOM))
        return None if first is None or swap is None or random is None else swap + random - first

    return Predictor(f"{LOOK}{at}", "framework", numbers, seconds, at)


def _leap(name: str) -> Predictor:
    """Return what leaps say, of models that they were not made on: they too take 30 iterations."""
    return Predictor(
        name,
        "framework",
        lambda member: [member.signal(name) if unseen(member) else None],
        lambda member: member.signal_seconds(name),
        AT_FURTHER,
    )


FRAMEWORK = (
    Predictor("statuses of the axes", "framework", _statuses, lambda member: _seconds_of(member, ["total"], [])),
    Predictor(REACHABILITY, "framework", _reachability, lambda member: _seconds_of(member, PARTS[REACHABILITY], [])),
    Predictor(
        INPUT_DEPENDENCE,
        "framework",
        _input_dependence,
        lambda member: _seconds_of(member, PARTS[INPUT_DEPENDENCE], [SWAP]),
    ),
    Predictor(GEOMETRY, "framework", _geometry, lambda member: _seconds_of(member, PARTS[GEOMETRY], [])),
    Predictor(ALL_AXES, "framework", _all_axes, _all_parts),
    _look(""),
    _look(AT_FURTHER),
    _leap(LEAP_KEPT),
    _leap(LEAP),
    _leap(LEAP_ANSWER),
    Predictor(
        f"{ALL_AXES} and {EASY_ACCURACY}",
        "framework",
        lambda member: [*_all_axes(member), member.signal(EASY_ACCURACY)],
        lambda member: _seconds_of(member, ["total"], [SWAP, EASY_ACCURACY]),
    ),
)


def _minus(value: Number) -> Number:
    return None if value is None else -value


TURNED: dict[str, Callable[[Number], Number]] = {
    STATE_RADIUS: _minus,
    WEIGHT_RATIO: _minus,
    POWER_ITERATION: _minus,
    LAST_RESIDUAL: lambda value: _minus(_log(value)),
    NORM_RATIO: lambda value: _minus(_log(value)),
    COSINE: lambda value: value,
    EASY_ACCURACY: lambda value: value,
    LONG_RUN: lambda value: value,
}
"""The rival signals, turned so that larger means likelier to hold."""


def _rival(name: str, turn: Callable[[Number], Number], at: str = "") -> Predictor:
    signal = f"{name}{at}"
    return Predictor(
        signal,
        "rival",
        lambda member: [turn(member.signal(signal))],
        lambda member: member.signal_seconds(signal),
        at,
    )


def _together(name: str, turned: Mapping[str, Callable[[Number], Number]], at: str = "") -> Predictor:
    """Return some rivals as one predictor.

    Args:
        name: the predictor's.
        turned: the rivals' signals as they are named, and how each is turned.
        at: as a predictor has it.
    """

    def seconds(member: Member) -> Number:
        # Those that need a pass need the same one, which is paid once.
        spent = [member.signal_seconds(signal) for signal in turned]
        return max((value for value in spent if value is not None), default=None)

    return Predictor(
        name, "rival", lambda member: [turn(member.signal(signal)) for signal, turn in turned.items()], seconds, at
    )


SHORT = {name: turn for name, turn in TURNED.items() if name != LONG_RUN}
"""The rivals that see the trained iterations, or none."""
TAKEN_AGAIN = {name: turn for name, turn in TURNED.items() if name not in OF_WEIGHTS}
"""The rivals that are taken once more after further iterations."""
RIVALS = (
    *(_rival(name, turn) for name, turn in TURNED.items()),
    _together(ALL_RIVALS, SHORT),
    *(_rival(name, turn, AT_FURTHER) for name, turn in TAKEN_AGAIN.items()),
    _together(
        f"{ALL_RIVALS}{AT_FURTHER}", {f"{name}{AT_FURTHER}": turn for name, turn in TAKEN_AGAIN.items()}, AT_FURTHER
    ),
)
PREDICTORS = (*FRAMEWORK, *RIVALS)
