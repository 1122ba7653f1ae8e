"""Predictors: the numbers that a forecast of a model is made from, and their cost.

A predictor of one number is used directly: the larger it is, the more likely a model retains its accuracy. A predictor of
several numbers needs a fitted rule. No predictor depends on an outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from experiments.prediction.population import Member
from experiments.prediction.signals import (
    AT_BUDGET,
    AT_FORECAST,
    COSINE,
    EASY_ACCURACY,
    FORECAST_ANSWER,
    FORECAST_KEPT,
    LAST_RESIDUAL,
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
SCORES = {"holds": 1.0, "borderline": 0.5, "unknown": 0.5, "fails": 0.0}
"""Score of an axis by its status, for the mean over the three axes."""
REACHABILITY, INPUT_DEPENDENCE, GEOMETRY = "reachability", "input-dependence", "geometry"
AXES = (REACHABILITY, INPUT_DEPENDENCE, GEOMETRY)
ALL_AXES = "all three axes"
ALL_RIVALS = "all short rivals"
RESTARTS = "residuals and restarts"
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
        name: name of the predictor.
        kind: framework or rival.
        numbers: returns the numbers for a model; None for a number that is not known.
        seconds: returns the cost for a model.
        at: ending of the names of its signals, which is empty if it sees no more than the trained iterations. Only predictors
            that see as much are compared with each other: a forecast with running on for as many steps as it took.
    """

    name: str
    kind: Literal["framework", "rival"]
    numbers: Callable[[Member], list[Number]]
    seconds: Callable[[Member], Number]
    at: str = ""

    def share(self, member: Member) -> Number:
        """Return its cost over the cost of running the same problems on; None if either was not measured."""
        spent, whole = self.seconds(member), member.signal_seconds(LONG_RUN)
        return spent / whole if spent is not None and whole else None


def _log(value: Number) -> Number:
    """Return the logarithm to base 10. Exactly zero, which a residual can be, counts as rounding."""
    return None if value is None or value < 0 else math.log10(max(value, 1e-8))


def _seconds_of(member: Member, parts: Sequence[str], signals: Sequence[str]) -> Number:
    spent = member.prediction_mode.get("seconds")
    if spent is None:
        return None
    beside = [member.signal_seconds(name) or 0.0 for name in signals]
    return sum(spent.get(part, 0.0) for part in dict.fromkeys(parts)) + sum(beside)


def _reachability(member: Member) -> list[Number]:
    found = member.prediction_mode
    residual = (found.get("residual") or [None])[-1]
    return [found.get("arrived"), found.get("rate"), _log(residual), found.get("growth"), found.get("lyapunov")]


def _input_dependence(member: Member) -> list[Number]:
    found = member.prediction_mode
    return [found.get("moved"), member.signal(SWAP), found.get("variance share")]


def _geometry(member: Member) -> list[Number]:
    found = member.prediction_mode
    logs = (found.get("log gradient growth"), found.get("log relative lipschitz"), found.get("log resolvent"))
    return [_log(found.get("radius")), *logs]


def _all_axes(member: Member) -> list[Number]:
    return [*_reachability(member), *_input_dependence(member), *_geometry(member)]


def _statuses(member: Member) -> list[Number]:
    axes = member.prediction_mode.get("axes")
    return [None if axes is None else sum(SCORES[axes[name]] for name in AXES) / len(AXES)]


def _all_parts(member: Member) -> Number:
    return _seconds_of(member, ["total"], [SWAP])


def _restarts(at: str) -> Predictor:
    """Return the predictor of residuals and restarts, after the trained iterations or after ``BUDGET`` iterations.

    Args:
        at: ending of the names of the signals.
    """
    in_logs = tuple(f"{name}{at}" for name in (LAST_RESIDUAL, SLOWEST_TOKENS, SWAP, RANDOM))
    as_they_are = tuple(f"{name}{at}" for name in (SLOPE, SWAP_ANSWER, RANDOM_ANSWER))

    def numbers(member: Member) -> list[Number]:
        return [
            *(_log(member.signal(name)) for name in in_logs),
            *(member.signal(name) for name in as_they_are),
        ]

    def seconds(member: Member) -> Number:
        # The time of each of the two restarts includes the first pass, which is paid once.
        first, swap, random = (member.signal_seconds(f"{name}{at}") for name in (LAST_RESIDUAL, SWAP, RANDOM))
        return None if first is None or swap is None or random is None else swap + random - first

    return Predictor(f"{RESTARTS}{at}", "framework", numbers, seconds, at)


def _forecast(name: str) -> Predictor:
    """Return the predictor of one signal of the forecast, which ranks the models that the forecast leaves undecided too."""
    return Predictor(
        name,
        "framework",
        lambda member: [member.signal(name)],
        lambda member: member.signal_seconds(name),
        AT_FORECAST,
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
    _restarts(""),
    _restarts(AT_BUDGET),
    _forecast(FORECAST_KEPT),
    _forecast(FORECAST_ANSWER),
    Predictor(
        f"{ALL_AXES} and {EASY_ACCURACY}",
        "framework",
        lambda member: [*_all_axes(member), member.signal(EASY_ACCURACY)],
        lambda member: _seconds_of(member, ["total"], [SWAP, EASY_ACCURACY]),
    ),
)


def _minus(value: Number) -> Number:
    return None if value is None else -value


ORIENTED: dict[str, Callable[[Number], Number]] = {
    STATE_RADIUS: _minus,
    WEIGHT_RATIO: _minus,
    POWER_ITERATION: _minus,
    LAST_RESIDUAL: lambda value: _minus(_log(value)),
    NORM_RATIO: lambda value: _minus(_log(value)),
    COSINE: lambda value: value,
    EASY_ACCURACY: lambda value: value,
    LONG_RUN: lambda value: value,
}
"""The rival signals, each with the function that makes larger values mean that a model is likelier to retain its accuracy."""


def _rival(name: str, orient: Callable[[Number], Number], at: str = "") -> Predictor:
    signal = f"{name}{at}"
    return Predictor(
        signal,
        "rival",
        lambda member: [orient(member.signal(signal))],
        lambda member: member.signal_seconds(signal),
        at,
    )


def _together(name: str, oriented: Mapping[str, Callable[[Number], Number]], at: str = "") -> Predictor:
    """Return several rivals as one predictor.

    Args:
        name: name of the predictor.
        oriented: the rivals' signals with their functions (see ``ORIENTED``).
        at: ending of the names of the signals.
    """

    def seconds(member: Member) -> Number:
        # Signals that need a pass need the same one, which is paid once.
        spent = [member.signal_seconds(signal) for signal in oriented]
        return max((value for value in spent if value is not None), default=None)

    return Predictor(
        name,
        "rival",
        lambda member: [orient(member.signal(signal)) for signal, orient in oriented.items()],
        seconds,
        at,
    )


SHORT = {name: orient for name, orient in ORIENTED.items() if name != LONG_RUN}
"""The rivals that see no more than the trained iterations."""
REPEATED = {name: orient for name, orient in ORIENTED.items() if name not in OF_WEIGHTS}
"""The rivals that are measured once more after ``BUDGET`` iterations."""
RIVALS = (
    *(_rival(name, orient) for name, orient in ORIENTED.items()),
    _together(ALL_RIVALS, SHORT),
    *(_rival(name, orient, AT_BUDGET) for name, orient in REPEATED.items()),
    _together(
        f"{ALL_RIVALS}{AT_BUDGET}", {f"{name}{AT_BUDGET}": orient for name, orient in REPEATED.items()}, AT_BUDGET
    ),
    _rival(LONG_RUN, ORIENTED[LONG_RUN], AT_FORECAST),
)
PREDICTORS = (*FRAMEWORK, *RIVALS)
BY_NAME = {one.name: one for one in PREDICTORS}
