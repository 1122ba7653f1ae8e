"""Timing of actions in turn, so that a busy machine slows all of them equally. It waits for the GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def clock_time() -> float:
    """Return the seconds of a clock, after the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def processor_time() -> float:
    """Return processor seconds, which a busy machine disturbs least. On a GPU, return the seconds of a clock."""
    return clock_time() if torch.cuda.is_available() else time.process_time()


def in_turn(
    actions: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], float] = clock_time
) -> list[list[float]]:
    """Return the seconds of each action in each round. A round runs all actions one after the other."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, times in zip(actions, seconds, strict=True):
            began = clock()
            action()
            times.append(clock() - began)
    return seconds


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the rounds' ratios, so that a disturbance of one round affects both times."""
    return statistics.median(one / other for one, other in zip(over, under, strict=True))
