"""Traces of orbits: everything that one pass over them shows about arrival."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.errors import check_history
from loopscope.fixed_points.residual import state_dtype
from loopscope.loop import Loop, mask_of
from loopscope.readouts import plan_readings
from loopscope.stability.orbits.answers import AnswerHistory, AnswerRecorder, Answers, Correct, repeat_last
from loopscope.stability.orbits.arrival import Ends, Step, follow, ratio
from loopscope.stability.orbits.rounding import Floor
from loopscope.stability.starts import first_state
from loopscope.trees import Tree, device_of, flatten, norms, token_norms, tree_map

HISTORY = 33
"""Number of states kept per example that has not arrived. A cycle of period p shows in 2p + 1 states."""


@dataclass(frozen=True)
class Trajectory(Ends, AnswerHistory):
    """One pass over the orbits, with what was read there. Histories have one row per evaluation of the step.

    The norm of the state and the residual of the readout are recorded in addition to the residual of the state, since a
    scale-invariant readout hides a state that grows without bound.

    Attributes:
        start_norm: norm of the first state.
        direction_residual: root mean square over tokens of the change of the token's unit vector.
        iterations_to_tolerance: evaluations until the residual is within the tolerance for good; -1 if it never is.
        token_residual: relative residual of each token; 0 for padding.
        token_settled: evaluations until the token's residual is within the tolerance for good; -1 if it never is, 0 for
            padding.
        unarrived: the examples that have neither arrived nor diverged.
        recent: their last states, oldest first, each flattened (padding included).
    """

    start_norm: Float[Tensor, "batch"]
    direction_residual: Float[Tensor, "iterations batch"]
    iterations_to_tolerance: Int[Tensor, "batch"]
    token_residual: Float[Tensor, "iterations batch tokens"]
    token_settled: Int[Tensor, "batch tokens"]
    unarrived: Int[Tensor, "unarrived"]
    recent: tuple[Float[Tensor, "unarrived n"], ...]


def quantiles(
    values: Float[Tensor, "*rows batch"], at: tuple[float, ...] = (0.1, 0.5, 0.9)
) -> Float[Tensor, "levels *rows"]:
    """Return quantiles over the examples, which are the last dimension. NaN is ignored."""
    levels = torch.tensor(at, dtype=values.dtype, device=values.device)
    return torch.nanquantile(values, levels, dim=-1)


def directions(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch tokens width"] | Tensor:
    """Return each token's unit vector, flattened. It is zero for zero tokens and padding."""
    return flatten(tree_map(_unit, state), mask)


def _unit(leaf: Tensor) -> Tensor:
    if not leaf.is_floating_point():
        return leaf
    tokens = leaf if leaf.ndim > 1 else leaf[:, None]
    return torch.nn.functional.normalize(tokens, dim=-1, eps=torch.finfo(leaf.dtype).tiny).reshape(leaf.shape)


_RECORDED = 6
"""Numbers that are recorded of each orbit at each iteration, beside one for each token."""


class _Recorder:
    """Records at each step what `follow` does not keep itself."""

    def __init__(self, sizes: Tensor, iterations: int, answers: AnswerRecorder) -> None:
        self.answers = answers
        (batch, tokens), like = sizes.shape, sizes
        self.direction_residual = torch.full((iterations, batch), math.nan, dtype=like.dtype, device=like.device)
        self.token_residual = torch.zeros(iterations, batch, tokens, dtype=like.dtype, device=like.device)
        self.token_real = torch.ones(batch, tokens, dtype=torch.bool, device=like.device)
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=HISTORY)
        self._known = torch.zeros(0, dtype=torch.long, device=like.device)
        self._directions = like

    def __call__(self, step: Step) -> None:
        if step.index == 0:
            self._known = step.rows
            self._directions = directions(step.before, step.mask)
            self.recent.append((step.rows, flatten(step.before)))
            real = token_norms(tree_map(torch.ones_like, step.before), step.mask)
            self.token_real[step.rows] = real > 0
        if len(step.rows) < len(self._known):
            stay = torch.isin(self._known, step.rows)
            self._known, self._directions = step.rows, self._directions[stay]
        self.answers(step)
        unit = directions(step.after, step.mask)
        turned = torch.linalg.vector_norm(unit - self._directions, dim=1)
        self.direction_residual[step.index, step.rows] = turned / self.token_real[step.rows].sum(1).sqrt()
        self._directions = unit
        self.token_residual[step.index, step.rows] = ratio(step.change, step.scale).to(self.token_residual.dtype)
        self.recent.append((step.rows, flatten(step.after)))


def _first_to_stay(residual: Tensor, tolerance: float) -> Tensor:
    """Return the number of evaluations after which a residual is within the tolerance for good, or -1 if it never is."""
    steps = torch.arange(1, len(residual) + 1, device=residual.device)
    last_outside = ((residual > tolerance) * steps.view(-1, *[1] * (residual.ndim - 1))).amax(0)
    return torch.where(last_outside < len(residual), last_outside + 1, -1)


def trace(
    loop: Loop,
    recalled: Tree,
    *,
    iterations: int,
    start: Tree | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
    correct: Correct | None = None,
    stop: Callable[[], bool] | None = None,
    answers: Answers | None = None,
    until: Literal["rounding", "end"] = "rounding",
    floor: Floor | None = None,
) -> Trajectory:
    """Follow the orbits from ``start`` once and record everything about their arrival.

    This costs ``iterations`` evaluations of the step, and as many of read unless it is expensive (see `loopscope.readouts`). An
    example leaves the batch when its residual has been at the rounding floor for eight evaluations, or when it is no longer
    finite. Its last values are repeated from there.

    Args:
        loop: any loop.
        recalled: ``loop.encode(inputs)``.
        iterations: largest number of iterations per orbit.
        start: the first state; the loop's own by default.
        tolerance: relative residual within which a state may count as arrived.
        seed: seed of a random start.
        correct: function of logits and the rows of the batch that they belong to, which returns which answers are right.
        stop: see `follow`.
        answers: what a readout predicts, one row per example; the largest logit's place, or a single one's sign, if
            left out.
        floor: see `follow`.
        until: see `follow`.

    Raises:
        LoopscopeError: see `follow`.
    """
    if start is None:
        with torch.no_grad(), torch.autocast(device_of(recalled).type, enabled=False):
            start = first_state(loop, recalled, seed)
    dtype = state_dtype(start)
    sizes = token_norms(start).to(dtype)
    check_history(iterations, len(sizes) * (sizes.shape[1] + _RECORDED) * sizes.element_size())
    reader = AnswerRecorder(loop, plan_readings(loop, start, recalled), sizes[:, 0], iterations, correct, answers)
    recorder = _Recorder(sizes, iterations, reader)
    ends = follow(
        loop,
        recalled,
        start,
        iterations=iterations,
        tolerance=tolerance,
        until=until,
        observe=recorder,
        stop=stop,
        floor=floor,
    )
    with torch.no_grad(), torch.autocast(device_of(recalled).type, enabled=False):
        read = reader.end(ends, recalled)
    unarrived = torch.nonzero(~ends.arrived & ~ends.diverged).squeeze(1)
    recent = tuple(states[torch.isin(rows, unarrived)] for rows, states in recorder.recent)
    token_residual = repeat_last(recorder.token_residual, ends.iterations)
    return Trajectory(
        **vars(ends),
        **vars(read),
        start_norm=norms(start, mask_of(loop, recalled)),
        direction_residual=repeat_last(recorder.direction_residual, ends.iterations),
        iterations_to_tolerance=_first_to_stay(ends.residual, tolerance),
        token_residual=token_residual,
        token_settled=_first_to_stay(token_residual, tolerance).masked_fill(~recorder.token_real, 0),
        unarrived=unarrived,
        recent=recent,
    )
