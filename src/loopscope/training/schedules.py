"""Learning-rate schedules: a factor on the learning rate for each step."""

from __future__ import annotations

import math
from collections.abc import Callable

PAPER_EPOCHS = 100


def paper(step: int, steps: int) -> float:
    """Return the paper's factor: 1 - exp(-(t + 1) / 10) over the first 9 of 100 epochs t, one tenth from epoch 60.

    Here an epoch is one hundredth of the run.
    """
    epoch = step * PAPER_EPOCHS // steps
    if epoch < 9:
        return 1 - math.exp(-(epoch + 1) / 10)
    return 1.0 if epoch < 60 else 0.1


def cosine(step: int, steps: int) -> float:
    """Return a linear warm-up over the first 5% of the run, then half a cosine down towards zero."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def constant(step: int, steps: int) -> float:
    """Return 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, int], float]] = {"paper": paper, "cosine": cosine, "constant": constant}
"""The schedules by name. Each maps (step, number of steps of the run) to a factor."""
