"""What the paper logs of the states themselves: the norm of the last iterate, and its direction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loopscope.contexts import eval_mode, without_autocast
from loopscope.errors import LoopscopeError
from loopscope.loop import Loop, first_state, iterate
from loopscope.trees import Tree, flatten, norms


@dataclass(frozen=True)
class LastIterates:
    """Medians over the inputs. A median that is not finite is None.

    Args:
        norm_ratio: norm of the last iterate over that of the first, which is the state after one iteration.
        cosine: cosine of the last two iterates.
    """

    norm_ratio: float | None
    cosine: float | None


def last_iterates(loop: Loop, inputs: Tree, iterations: int, seed: int = 0) -> LastIterates:
    """Return the norm ratio and the cosine of a loop's last iterates (paper, evaluation).

    Args:
        loop: the loop.
        inputs: what ``loop.encode`` takes, batch first.
        iterations: number of iterations.
        seed: seed of a random first state.

    Raises:
        LoopscopeError: there are fewer than two iterations.
    """
    if iterations < 2:
        raise LoopscopeError(f"iterations is {iterations}, expected at least 2: the last two iterates are compared")
    with eval_mode(loop), without_autocast(), torch.no_grad():
        recalled = loop.encode(inputs)
        first = loop.step(first_state(loop, recalled, seed), recalled)
        before = iterate(loop, first, recalled, iterations - 2)
        last = loop.step(before, recalled)
    cosine = torch.cosine_similarity(flatten(before).double(), flatten(last).double(), dim=1)
    return LastIterates(_median(norms(last) / norms(first)), _median(cosine))


def _median(values: Tensor) -> float | None:
    median = values.double().median()
    return float(f"{median.item():.5g}") if bool(median.isfinite()) else None
