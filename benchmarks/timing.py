"""Timing in turn, so that a busy machine slows all that is compared alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def in_turn(
    actions: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Return the seconds of each action in each of so many rounds, every round running all of them one after another."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, times in zip(actions, seconds, strict=True):
            began = clock()
            action()
            times.append(clock() - began)
    return seconds


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of each round: a round that was disturbed counts once, on both sides."""
    return statistics.median(one / other for one, other in zip(over, under, strict=True))
