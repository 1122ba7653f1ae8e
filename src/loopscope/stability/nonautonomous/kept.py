"""Answers kept: how many answers of one iteration remain at later ones, over one or several draws of the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.kinds import TimedLoop
from loopscope.loop import AnswersPer, Loop, answers_per, mask_of, readout
from loopscope.schema import to_plain
from loopscope.stability.nonautonomous.results import KeptResult
from loopscope.stability.orbits.answers import Answers, at_every_token, gives_answer, predictions
from loopscope.trees import Tree, batch_size, flatten

LAST = 8
"""Number of last iterations over which answers are compared: a cycle, or noise, may pass by an answer at a single one."""


@dataclass(frozen=True)
class Kept:
    """Which answers remain along one draw's orbits.

    Attributes:
        same: share of the example's answers that are those of the reference; NaN before it. One row per iteration from the first on.
        last: the answers at the end.
        at_end: share of the last iterations at which the answer was that of the reference.
    """

    same: Float[Tensor, "iterations batch"]
    last: Tensor
    at_end: Float[Tensor, "batch"]


def draws_of(loop: Loop, count: int) -> list[Loop]:
    """Return a loop under independent draws of its noise; the loop alone where it draws nothing."""
    if isinstance(loop, TimedLoop) and loop.wants.generator:
        return [loop.redrawn(draw) for draw in range(count)]
    return [loop]


def answers_kept(
    loops: Sequence[Loop],
    recalled: Tree,
    start: Tree,
    *,
    iterations: int,
    reference: int,
    answers: Answers | None = None,
    stop: Callable[[], bool] | None = None,
) -> KeptResult:
    """Return how many answers of the reference remain.

    Args:
        loops: one loop, or one under several draws of its noise.
        recalled: the recalled input.
        start: the first states.
        iterations: how far to follow the orbits, at least one beyond the reference.
        reference: the iteration whose answers are compared.
        answers: maps logits to answers, one row per example.
        stop: asked after every iteration; once it returns true, the orbits end there.
    """
    found = [kept_along(loop, recalled, start, iterations, reference, answers, stop) for loop in loops]
    # Where the time is over, later draws end earlier than the first.
    same = torch.stack(
        [torch.nn.functional.pad(one.same, (0, 0, 0, iterations - len(one.same)), value=math.nan) for one in found]
    )
    mask, unit = mask_of(loops[0], recalled), answers_per(loops[0])
    equal = torch.stack([one.last == found[0].last for one in found]).all(0)
    return KeptResult(
        reference=reference,
        kept=to_plain(same.nanmean(2).nanmean(0)),
        draws=[float(one.at_end.mean()) for one in found],
        agreement=float(_share(equal, unit, mask).mean()) if len(found) > 1 else None,
    )


def kept_along(
    loop: Loop,
    recalled: Tree,
    start: Tree,
    iterations: int,
    reference: int,
    answers: Answers | None = None,
    stop: Callable[[], bool] | None = None,
) -> Kept:
    """Return which answers of the reference remain along the orbits of one draw.

    All examples are followed together to the end, so that the noise of an example is the same in all orbits of a draw.
    """
    mask, unit, state = mask_of(loop, recalled), answers_per(loop), start
    first = last = torch.zeros(batch_size(start), 0)
    known = torch.zeros(len(first), dtype=torch.bool)
    rows = []
    with torch.no_grad():
        for iteration in range(1, iterations + 1):
            state = loop.step(state, recalled)
            if iteration < reference:
                rows.append(torch.full((len(first),), math.nan, dtype=torch.float64))
                continue
            logits = readout(loop, state, recalled)
            last = predictions(logits) if answers is None else answers(logits)
            answered = at_every_token(gives_answer(logits), mask) & flatten(state, mask).isfinite().all(1)
            if iteration == reference:
                first, known = last, answered
            rows.append(_share(last == first, unit, mask) * (answered & known))
            if stop is not None and stop():
                break
    same = torch.stack([row.to(rows[-1]) for row in rows])
    return Kept(same, last, same[reference - 1 :][-LAST:].mean(0))


def _share(equal: Bool[Tensor, "batch *tokens"], unit: AnswersPer, mask: Tensor | None) -> Float[Tensor, "batch"]:
    """Return the share of each example's answers that are equal: of its real tokens, or of the one answer that they make."""
    if unit == "example":
        return at_every_token(equal, mask).double()
    real = torch.ones_like(equal) if mask is None or mask.shape != equal.shape else mask
    flat, count = (equal & real).reshape(len(equal), -1), real.reshape(len(equal), -1)
    return flat.sum(1).double() / count.sum(1).clamp_min(1)
