"""Answers kept: how many answers of one iteration remain at later ones, over one or several draws of the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.kinds import TimedLoop
from loopscope.loop import AnswersPer, Loop, answers_per, mask_of
from loopscope.readouts import ReadingPlan, plan_readings
from loopscope.schema import to_plain
from loopscope.stability.nonautonomous.results import KeptResult
from loopscope.stability.orbits.answers import Answers, at_every_token, gives_answer, predictions
from loopscope.trees import Tree, flatten

LAST = 8
"""Number of last iterations over which answers are compared: a cycle, or noise, may pass by an answer at a single one."""


@dataclass(frozen=True)
class Kept:
    """Which answers remain along one draw's orbits.

    Attributes:
        same: share of the example's answers that are those of the reference, one row per iteration from the first on; NaN
            before the reference, and where nothing was read.
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
    reader = _Reader(loop, recalled, mask, answers or predictions, plan_readings(loop, start, recalled))
    rows = []
    with torch.no_grad():
        first = last = reader(start)
        for iteration in range(1, iterations + 1):
            state = loop.step(state, recalled)
            over = iteration == iterations or (stop is not None and iteration >= reference and stop())
            past = iteration - reference
            if past == 0 or over or (past > 0 and reader.plan.is_due(past + 1)):
                last = reader(state)
                first = last if past == 0 else first
                rows.append(_share(last["answers"] == first["answers"], unit, mask) * (last["known"] & first["known"]))
            else:
                rows.append(torch.full_like(first["known"], math.nan, dtype=torch.float64))
            if over:
                break
    same = torch.stack(rows)
    return Kept(same, last["answers"], same[reference - 1 :][-LAST:].nanmean(0))


@dataclass(frozen=True)
class _Reader:
    """Reads what states answer, for as many examples at once as fit in memory."""

    loop: Loop
    recalled: Tree
    mask: Bool[Tensor, "batch *tokens"] | None
    answers: Answers
    plan: ReadingPlan

    def __call__(self, state: Tree) -> dict[str, Tensor]:
        """Return the answers of each example, and whether they are known: the state and the outputs are finite."""
        found = self.plan.in_parts(self.loop, [state], self.recalled, self._of)
        return {**found, "known": found["known"] & flatten(state, self.mask).isfinite().all(1)}

    def _of(self, part: slice, logits: Sequence[Tensor]) -> dict[str, Tensor]:
        mask = None if self.mask is None else self.mask[part]
        return {"answers": self.answers(logits[0]), "known": at_every_token(gives_answer(logits[0]), mask)}


def _share(equal: Bool[Tensor, "batch *tokens"], unit: AnswersPer, mask: Tensor | None) -> Float[Tensor, "batch"]:
    """Return the share of each example's answers that are equal: of its real tokens, or of the one answer that they make."""
    if unit == "example":
        return at_every_token(equal, mask).double()
    real = torch.ones_like(equal) if mask is None or mask.shape != equal.shape else mask
    flat, count = (equal & real).reshape(len(equal), -1), real.reshape(len(equal), -1)
    return flat.sum(1).double() / count.sum(1).clamp_min(1)
