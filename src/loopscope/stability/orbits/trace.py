"""Traces of orbits: everything that one pass over them shows about arrival."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.fixed_points.residual import state_dtype
from loopscope.loop import Loop, mask_of, readout
from loopscope.stability.orbits.arrival import Ends, Step, follow, ratio
from loopscope.stability.orbits.rounding import Floor
from loopscope.stability.starts import first_state
from loopscope.trees import Tree, device_of, flatten, norms, scaled_norm, token_norms, tree_map

HISTORY = 33
"""Number of states kept per example that has not arrived. A cycle of period p shows in 2p + 1 states."""

Correct = Callable[[Tensor, Int[Tensor, "active"]], Bool[Tensor, "active"]]
Answers = Callable[[Tensor], Tensor]
"""Function from logits to the answers that they give, one row per example."""


@dataclass(frozen=True)
class Trajectory(Ends):
    """One pass over the orbits. Histories have one row per evaluation of the step.

    The norm of the state and the residual of the readout are recorded in addition to the residual of the state, since a
    scale-invariant readout hides a state that grows without bound.

    Attributes:
        start_norm: norm of the first state.
        read_residual: relative change of read(state).
        direction_residual: root mean square over tokens of the change of the token's unit vector.
        prediction_changes: fraction of predictions (see ``trace``) that changed; NaN where the readout gives no answer.
        solved: which examples are right; None if ``correct`` was not given. An example whose readout gives no answer is
            never right.
        answered: whether the readout gives an answer at every real token (see ``gives_answer``).
        broken: whether some number of the readout was finite at the first state and is not finite any more.
        iterations_to_tolerance: evaluations until the residual is within the tolerance for good; -1 if it never is.
        token_residual: relative residual of each token; 0 for padding.
        token_settled: evaluations until the token's residual is within the tolerance for good; -1 if it never is, 0 for
            padding.
        unarrived: the examples that have neither arrived nor diverged.
        recent: their last states, oldest first, each flattened (padding included).
    """

    start_norm: Float[Tensor, "batch"]
    read_residual: Float[Tensor, "iterations batch"]
    direction_residual: Float[Tensor, "iterations batch"]
    prediction_changes: Float[Tensor, "iterations batch"]
    solved: Bool[Tensor, "iterations batch"] | None
    answered: Bool[Tensor, "iterations batch"]
    broken: Bool[Tensor, "iterations batch"]
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


def predictions(logits: Tensor) -> Tensor:
    """Return the predictions of logits: the index of the largest one in the last dimension, or the sign of a single one."""
    return (logits > 0).squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(-1)


def gives_answer(logits: Tensor) -> Tensor:
    """Return where logits give an answer: none is NaN, and at least one of several classes is above minus infinity."""
    known = ~logits.isnan().any(-1)
    return known if logits.shape[-1] == 1 else known & (logits > -math.inf).any(-1)


def directions(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch tokens width"] | Tensor:
    """Return each token's unit vector, flattened. It is zero for zero tokens and padding."""
    return flatten(tree_map(_unit, state), mask)


def _unit(leaf: Tensor) -> Tensor:
    if not leaf.is_floating_point():
        return leaf
    tokens = leaf if leaf.ndim > 1 else leaf[:, None]
    return torch.nn.functional.normalize(tokens, dim=-1, eps=torch.finfo(leaf.dtype).tiny).reshape(leaf.shape)


class _Recorder:
    """Records at each step what `follow` does not keep itself."""

    def __init__(
        self, loop: Loop, sizes: Tensor, iterations: int, correct: Correct | None, answers: Answers | None
    ) -> None:
        self.loop, self.correct, self.answers = loop, correct, answers or predictions
        (batch, tokens), like = sizes.shape, sizes
        self.read_residual = torch.full((iterations, batch), math.nan, dtype=like.dtype, device=like.device)
        self.direction_residual = self.read_residual.clone()
        self.prediction_changes = self.read_residual.clone()
        self.solved = None if correct is None else torch.zeros(iterations, batch, dtype=torch.bool, device=like.device)
        self.answered, self.broken = torch.zeros(2, iterations, batch, dtype=torch.bool, device=like.device)
        self.token_residual = torch.zeros(iterations, batch, tokens, dtype=like.dtype, device=like.device)
        self.token_real = torch.ones(batch, tokens, dtype=torch.bool, device=like.device)
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=HISTORY)
        self._known = torch.zeros(0, dtype=torch.long, device=like.device)
        self._logits = self._directions = self._finite = self._answered = like

    def __call__(self, step: Step) -> None:
        if step.index == 0:
            self._known = step.rows
            self._logits = readout(self.loop, step.before, step.recalled)
            self._finite = self._logits.isfinite()
            self._answered = at_every_token(gives_answer(self._logits), step.mask)
            self._directions = directions(step.before, step.mask)
            self.recent.append((step.rows, flatten(step.before)))
            real = token_norms(tree_map(torch.ones_like, step.before), step.mask)
            self.token_real[step.rows] = real > 0
        if len(step.rows) < len(self._known):
            stay = torch.isin(self._known, step.rows)
            self._known, self._finite, self._answered = step.rows, self._finite[stay], self._answered[stay]
            self._logits, self._directions = self._logits[stay], self._directions[stay]
        logits, unit = readout(self.loop, step.after, step.recalled), directions(step.after, step.mask)
        self.read_residual[step.index, step.rows] = _read_residual(self._logits, logits, step.mask)
        answered = at_every_token(gives_answer(logits), step.mask)
        self.answered[step.index, step.rows] = answered
        self.broken[step.index, step.rows] = ~at_every_token((logits.isfinite() | ~self._finite).all(-1), step.mask)
        changes = _changed(self.answers(self._logits), self.answers(logits), step.mask)
        changes = changes.masked_fill(~self._answered, 1).masked_fill(~answered, math.nan)
        self.prediction_changes[step.index, step.rows] = changes.to(self.prediction_changes.dtype)
        if self.solved is not None and self.correct is not None:
            # The argmax of NaN is the first class, so a diverged state would be right if that is the answer.
            right = self.correct(logits, step.rows) & answered
            self.solved[step.index, step.rows] = right & step.residual.isfinite()
        turned = torch.linalg.vector_norm(unit - self._directions, dim=1)
        self.direction_residual[step.index, step.rows] = turned / self.token_real[step.rows].sum(1).sqrt()
        self._logits, self._directions, self._answered = logits, unit, answered
        self.token_residual[step.index, step.rows] = ratio(step.change, step.scale).to(self.token_residual.dtype)
        self.recent.append((step.rows, flatten(step.after)))


def _repeat_last(history: Tensor, spent: Tensor) -> Tensor:
    steps = torch.arange(len(history), device=history.device)[:, None]
    index = torch.minimum(steps, spent - 1)
    return history.gather(0, index.view(*index.shape, *[1] * (history.ndim - 2)).expand_as(history))


def _first_to_stay(residual: Tensor, tolerance: float) -> Tensor:
    """Return the number of evaluations after which a residual is within the tolerance for good, or -1 if it never is."""
    steps = torch.arange(1, len(residual) + 1, device=residual.device)
    last_outside = ((residual > tolerance) * steps.view(-1, *[1] * (residual.ndim - 1))).amax(0)
    return torch.where(last_outside < len(residual), last_outside + 1, -1)


def _fits(mask: Tensor | None, values: Tensor) -> bool:
    return mask is not None and values.shape[: mask.ndim] == mask.shape


def _read_residual(before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    mask = mask if _fits(mask, after) else None
    change, old, new = (scaled_norm(flatten(part, mask)) for part in (after - before, before, after))
    return ratio(change, torch.maximum(old, new))


def _changed(before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    changed = before != after
    if mask is not None and changed.shape == mask.shape:
        return (changed & mask).sum(1).double() / mask.sum(1).clamp_min(1)
    return changed.reshape(len(changed), -1).double().mean(1)


def at_every_token(tokens: Bool[Tensor, "batch *tokens"], mask: Tensor | None) -> Bool[Tensor, "batch"]:
    """Return whether a condition holds at every real token of each example."""
    if mask is not None and tokens.shape == mask.shape:
        tokens = tokens | ~mask
    return tokens.reshape(len(tokens), -1).all(1)


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

    This costs ``iterations`` evaluations of step and read. An example leaves the batch when its residual has been at the rounding
    floor for eight evaluations, or when it is no longer finite. Its last values are repeated from there.

    Args:
        loop: any loop.
        recalled: ``loop.encode(inputs)``.
        iterations: largest number of iterations per orbit.
        start: the first state; the loop's own by default.
        tolerance: relative residual within which a state may count as arrived.
        seed: seed of a random start.
        correct: function of logits and the rows of the batch that they belong to, which returns which of these are right.
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
    recorder = _Recorder(loop, token_norms(start).to(dtype), iterations, correct, answers)
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
    unarrived = torch.nonzero(~ends.arrived & ~ends.diverged).squeeze(1)
    recent = tuple(states[torch.isin(rows, unarrived)] for rows, states in recorder.recent)
    token_residual = _repeat_last(recorder.token_residual, ends.iterations)
    return Trajectory(
        **vars(ends),
        start_norm=norms(start, mask_of(loop, recalled)),
        read_residual=_repeat_last(recorder.read_residual, ends.iterations),
        direction_residual=_repeat_last(recorder.direction_residual, ends.iterations),
        prediction_changes=_repeat_last(recorder.prediction_changes, ends.iterations),
        solved=None if recorder.solved is None else _repeat_last(recorder.solved, ends.iterations),
        answered=_repeat_last(recorder.answered, ends.iterations),
        broken=_repeat_last(recorder.broken, ends.iterations),
        iterations_to_tolerance=_first_to_stay(ends.residual, tolerance),
        token_residual=token_residual,
        token_settled=_first_to_stay(token_residual, tolerance).masked_fill(~recorder.token_real, 0),
        unarrived=unarrived,
        recent=recent,
    )
