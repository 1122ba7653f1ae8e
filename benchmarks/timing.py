"""Timing in turn, so that a busy machine slows all that is compared alike; a GPU is waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def clock_time() -> float:
    """Return the seconds of a clock, once the GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def processor_time() -> float:
    """Return the processor's seconds, which a busy machine disturbs least; a GPU's are the clock's."""
    return clock_time() if torch.cuda.is_available() else time.process_time()


def in_turn(
    actions: Sequence[Callable[[], object]], rounds: int, clock: Callable[[], float] = clock_time
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
