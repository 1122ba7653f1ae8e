"""Several random starts: the answer of the orbit that has converged best, or the one that most orbits give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int

from loopscope.stability.early_exit.recording import Recording
from loopscope.stability.early_exit.rules import ExitPoint

Chosen = Int[torch.Tensor, "units"]


def best_converged(recordings: Sequence[Recording]) -> Chosen:
    """Return, for each unit, the start whose state moves least in the last iteration."""
    return torch.stack([one.residual for one in recordings]).argmin(0)


def majority(recordings: Sequence[Recording]) -> Chosen:
    """Return, for each unit, the first start that gives the most common last answer."""
    last = torch.stack([one.answers[-1] for one in recordings]).tolist()
    chosen = []
    for unit in range(len(last[0])):
        answers = [tuple(start[unit]) for start in last]
        chosen.append(answers.index(Counter(answers).most_common(1)[0][0]))
    return torch.tensor(chosen)


def point(recordings: Sequence[Recording], chosen: Chosen) -> ExitPoint:
    """Return the cost of all starts, and the quality of the chosen one's last answer.

    Args:
        recordings: one per start, of the same units.
        chosen: the start that each unit's answer is taken from.
    """
    good = torch.stack([last_good(one, recordings[0]) for one in recordings])
    quality = good.gather(0, chosen[None]).double().mean().item()
    return ExitPoint(float(len(recordings)), float(sum(one.iterations for one in recordings)), quality)


def last_good(recording: Recording, first: Recording) -> Bool[torch.Tensor, "units"]:
    """Return whether each last answer is right, or, without targets, is the last answer of the first start."""
    if recording.right is not None:
        return recording.right[-1]
    return (recording.answers[-1] == first.answers[-1]).all(1) & (recording.answers[-1] >= 0).all(1)
