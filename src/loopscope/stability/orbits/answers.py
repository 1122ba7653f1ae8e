"""What the readout says along orbits: answers, whether they change, and whether they are right, without the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.loop import AnswersPer, Loop, answers_per
from loopscope.readouts import ReadingPlan
from loopscope.stability.orbits.arrival import Ends, Step, ratio
from loopscope.trees import Tree, flatten, scaled_norm, select

Correct = Callable[[Tensor, Int[Tensor, "active"]], Bool[Tensor, "active *tokens"]]
"""Maps logits, and the rows of the batch that they belong to, to which answers are right: one for each row, or for each token."""
Answers = Callable[[Tensor], Tensor]
"""Maps logits to what they predict, one row per example."""


@dataclass(frozen=True)
class AnswerHistory:
    """What was read along orbits. Histories have one row per evaluation of the step.

    Attributes:
        answers_per: what one answer belongs to.
        read: after which iterations the readout was read.
        read_residual: relative change of the logits; NaN unless this iteration and the one before were read as a whole.
        prediction_changes: fraction of predictions that changed since the reading before; NaN where the readout gives no answer,
            or was not read.
        solved: which answers are right after an iteration that was read; None if no targets were given. An answer that is not
            there is never right.
        answered: whether the readout gives an answer at every real token (see ``gives_answer``).
        broken: whether some number of the readout that was finite at the first state is no longer finite.
        last_change: the last iteration at which each answer was found to have changed, or was not there; 0 if it never was.
        example: the example that each answer belongs to.
        said: what each token answers after an iteration that was read, -1 where it gives no answer or nothing was read; None
            where answers are counted by example.
    """

    answers_per: AnswersPer
    read: Bool[Tensor, "iterations"]
    read_residual: Float[Tensor, "iterations batch"]
    prediction_changes: Float[Tensor, "iterations batch"]
    solved: Bool[Tensor, "iterations answers"] | None
    answered: Bool[Tensor, "iterations batch"]
    broken: Bool[Tensor, "iterations batch"]
    last_change: Int[Tensor, "answers"]
    example: Int[Tensor, "answers"]
    said: Int[Tensor, "iterations answers"] | None


def predictions(logits: Tensor) -> Tensor:
    """Return what logits predict: the largest one's position in the last dimension, or the sign of a single one."""
    return (logits > 0).squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(-1)


def gives_answer(logits: Tensor) -> Tensor:
    """Return where logits give an answer: none of them is NaN, and among several classes one is above minus infinity."""
    known = ~logits.isnan().any(-1)
    return known if logits.shape[-1] == 1 else known & (logits > -math.inf).any(-1)


def at_every_token(tokens: Bool[Tensor, "batch *tokens"], mask: Tensor | None) -> Bool[Tensor, "batch"]:
    """Return whether something is true of every real token."""
    if mask is not None and tokens.shape == mask.shape:
        tokens = tokens | ~mask
    return tokens.reshape(len(tokens), -1).all(1)


def repeat_last(history: Tensor, spent: Tensor) -> Tensor:
    """Return a history in which the values of each example's last evaluation are repeated to the end."""
    steps = torch.arange(len(history), device=history.device)[:, None]
    index = torch.minimum(steps, spent - 1)
    return history.gather(0, index.view(*index.shape, *[1] * (history.ndim - 2)).expand_as(history))


@dataclass(frozen=True)
class _Reading:
    """What is kept of the logits of some examples.

    Attributes:
        predicted: what they predict.
        known: where they give an answer.
        finite: how many of them are finite.
        right: which answers are right; no columns where there are no targets.
    """

    predicted: Tensor
    known: Bool[Tensor, "active *tokens"]
    finite: Int[Tensor, "active *tokens"]
    right: Bool[Tensor, "active columns"]


class AnswerRecorder:
    """Reads the states of orbits as they are followed.

    Args:
        loop: the loop.
        plan: how it is read.
        like: any tensor of the precision in which fractions are kept, with one row per example.
        iterations: the budget.
        correct: which answers are right, where targets were given.
        answers: what logits predict; the largest one's place, or a single one's sign, if left out.
    """

    def __init__(
        self,
        loop: Loop,
        plan: ReadingPlan,
        like: Tensor,
        iterations: int,
        correct: Correct | None,
        answers: Answers | None,
    ) -> None:
        self.loop, self.plan, self.correct, self.answers = loop, plan, correct, answers or predictions
        self.per = answers_per(loop)
        self.read_residual = like.new_full((iterations, len(like)), math.nan)
        self.prediction_changes = self.read_residual.clone()
        self.answered = torch.ones_like(self.read_residual, dtype=torch.bool)
        self.broken = torch.zeros_like(self.answered)
        self.read = torch.tensor([plan.is_due(k + 1) for k in range(iterations)], device=like.device)
        self._mask: Tensor | None = None
        self._logits: Tensor | None = None
        self._logits_rows = torch.arange(len(like), device=like.device)

    def __call__(self, step: Step) -> None:
        """Read the states of one evaluation of the step, if a reading is due."""
        if step.index == 0:
            self._begin(step)
        if self.plan.is_due(step.index + 1):
            reading, logits = self._read(step.after, step.recalled, step.rows)
            self._compare_logits(step, logits)
            self._record(step.index, step.rows, reading, step.mask, step.residual.isfinite())

    def end(self, ends: Ends, recalled: Tree) -> AnswerHistory:
        """Return what was read, once the orbits have ended."""
        last = ends.iterations - 1
        rows = torch.nonzero(~self.read[last]).squeeze(1)
        if len(rows):
            self._record_ends(ends, rows, recalled)
        self.read[int(last.max()) :] = True
        last_change, example = _in_one_row(self._last_change, self._real(self._last_change))
        changes = repeat_last(self.prediction_changes, ends.iterations)
        return AnswerHistory(
            answers_per=self.per,
            read=self.read,
            read_residual=repeat_last(self.read_residual, ends.iterations),
            prediction_changes=changes.masked_fill(~self.read.unsqueeze(1), math.nan),
            solved=None if self.correct is None else self._solved_answers(ends),
            answered=repeat_last(self.answered, ends.iterations),
            broken=repeat_last(self.broken, ends.iterations),
            last_change=last_change,
            example=example,
            said=None
            if self.per != "token"
            else repeat_last(self._said, ends.iterations)[:, self._real(self._said[0])],
        )

    def _begin(self, step: Step) -> None:
        self._mask = step.mask
        first, self._logits = self._read(step.before, step.recalled, step.rows)
        # Copies, since they are written to: a user's function may have returned a tensor that is used elsewhere.
        self._predicted, self._known, self._finite = first.predicted.clone(), first.known.clone(), first.finite
        columns = first.predicted.reshape(len(step.rows), -1).shape[1] if self.per == "token" else 1
        self._last_change = torch.zeros(len(step.rows), columns, dtype=torch.long, device=step.rows.device)
        by_token = len(self.read) if self.per == "token" else 0
        self._said = torch.full((by_token, *self._last_change.shape), -1, dtype=torch.int32, device=step.rows.device)
        self._solved = torch.zeros(len(self.read), *first.right.shape, dtype=torch.bool, device=step.rows.device)

    def _record_ends(self, ends: Ends, rows: Int[Tensor, "some"], recalled: Tree) -> None:
        """Read the last states of orbits that ended between two readings; what diverged answers nothing."""
        diverged = ends.diverged[rows]
        reading, _ = self._read(select(ends.state, rows), select(recalled, rows), rows)
        lost = diverged.view(-1, *[1] * (reading.known.ndim - 1))
        mask = None if self._mask is None else self._mask[rows]
        self._record(ends.iterations[rows] - 1, rows, replace(reading, known=reading.known & ~lost), mask, ~diverged)

    def _read(self, state: Tree, recalled: Tree, rows: Int[Tensor, "active"]) -> tuple[_Reading, Tensor | None]:
        """Return what a state answers; with the logits where all of them are held at once, after every iteration."""
        whole = self.plan.every_iteration and len(rows) <= self.plan.examples
        held: list[Tensor] = []

        def use(part: slice, states: Sequence[Tensor]) -> dict[str, Tensor]:
            (logits,) = states
            if whole:
                held.append(logits)
            return vars(self._reading(logits, rows[part]))

        reading = _Reading(**self.plan.in_parts(self.loop, [state], recalled, use))
        return reading, held[0] if held else None

    def _reading(self, logits: Tensor, rows: Int[Tensor, "part"]) -> _Reading:
        none = torch.zeros(len(rows), 0, dtype=torch.bool, device=rows.device)
        right = none if self.correct is None else self.correct(logits, rows).reshape(len(rows), -1)
        return _Reading(self.answers(logits), gives_answer(logits), logits.isfinite().sum(-1), right)

    def _compare_logits(self, step: Step, logits: Tensor | None) -> None:
        before = self._logits
        if before is not None and logits is not None:
            if len(step.rows) < len(self._logits_rows):
                before = before[torch.isin(self._logits_rows, step.rows)]
            self.read_residual[step.index, step.rows] = _read_residual(before, logits, step.mask)
        self._logits, self._logits_rows = logits, step.rows

    def _record(
        self,
        index: int | Int[Tensor, "active"],
        rows: Int[Tensor, "active"],
        reading: _Reading,
        mask: Tensor | None,
        finite: Bool[Tensor, "active"],
    ) -> None:
        """Keep what some examples answer after an evaluation, and compare it with the reading before.

        Args:
            index: of the evaluation, or one for each example.
            rows: the examples.
            reading: what they answer.
            mask: true where a token is real.
            finite: whose states are finite.
        """
        before, known_before = self._predicted[rows], self._known[rows]
        had, has = at_every_token(known_before, mask), at_every_token(reading.known, mask)
        changes = _changed(before, reading.predicted, mask).masked_fill(~had, 1).masked_fill(~has, math.nan)
        self.prediction_changes[index, rows] = changes.to(self.prediction_changes.dtype)
        self.answered[index, rows] = has
        self.broken[index, rows] = ~at_every_token(reading.finite >= self._finite[rows], mask)
        changed = changes.unsqueeze(1) != 0
        if self.per == "token":
            self._said[index, rows] = self._answered(reading, finite)
            changed = (before != reading.predicted).reshape(len(rows), -1)
            if known_before.reshape(len(rows), -1).shape == changed.shape:
                changed = changed | ~(known_before & reading.known).reshape(len(rows), -1)
        iteration = torch.as_tensor(index, device=rows.device).expand(len(rows)).unsqueeze(1) + 1
        self._last_change[rows] = torch.where(changed, iteration, self._last_change[rows])
        # The argmax of NaN is the first class, so a diverged state would be right if that is the answer.
        by_token = self.per == "token" and reading.right.shape == reading.known.shape
        there = reading.known if by_token else has.unsqueeze(1)
        self._solved[index, rows] = reading.right & there & finite.unsqueeze(1)
        self._predicted[rows], self._known[rows] = reading.predicted, reading.known

    def _answered(self, reading: _Reading, finite: Bool[Tensor, "active"]) -> Int[Tensor, "active columns"]:
        """Return what each token answers; -1 where it gives no answer."""
        predicted = reading.predicted.reshape(len(finite), -1).to(torch.int32)
        known = reading.known.reshape(len(finite), -1)
        there = known if known.shape == predicted.shape else known.all(1, keepdim=True)
        return predicted.masked_fill(~(there & finite.unsqueeze(1)), -1)

    def _solved_answers(self, ends: Ends) -> Bool[Tensor, "iterations answers"]:
        solved = repeat_last(self._solved, ends.iterations)
        return solved[:, self._real(solved[0])]

    def _real(self, columns: Tensor) -> Bool[Tensor, "batch columns"]:
        """Return which answers count: all, or those of real tokens."""
        if self.per == "token" and self._mask is not None and self._mask.flatten(1).shape == columns.shape:
            return self._mask.flatten(1)
        return torch.ones_like(columns, dtype=torch.bool)


def _in_one_row(columns: Tensor, real: Bool[Tensor, "batch columns"]) -> tuple[Tensor, Int[Tensor, "answers"]]:
    """Return the entries that count, and the example of each."""
    return columns[real], torch.nonzero(real)[:, 0]


def _read_residual(before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    mask = mask if mask is not None and after.shape[: mask.ndim] == mask.shape else None
    change, old, new = (scaled_norm(flatten(part, mask)) for part in (after - before, before, after))
    return ratio(change, torch.maximum(old, new))


def _changed(before: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
    changed = before != after
    if mask is not None and changed.shape == mask.shape:
        return (changed & mask).sum(1).double() / mask.sum(1).clamp_min(1)
    return changed.reshape(len(changed), -1).double().mean(1)
