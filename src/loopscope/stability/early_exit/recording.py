"""One pass over the orbits that records, after each iteration, every score, every answer and which answers are right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.checks import Prepared
from loopscope.errors import LoopscopeError
from loopscope.loop import AnswersPer, Loop, readout
from loopscope.readouts import examples_at_once
from loopscope.stability.early_exit.scores import (
    divergence_of,
    entropy_of,
    log_probabilities,
    movement,
    movement_of_examples,
)
from loopscope.stability.orbits.answers import Answers, gives_answer, predictions
from loopscope.stability.targets import Correct
from loopscope.trees import Tree, batch_size, select

RESIDUAL, COSINE = "residual", "cosine"
DIVERGENCE, ENTROPY, PATIENCE = "KL divergence", "entropy", "patience"
GATE, ACCUMULATED = "gate", "accumulated gate"
OF_STATE, OF_OUTPUT = (RESIDUAL, COSINE), (DIVERGENCE, ENTROPY, PATIENCE)


@dataclass(frozen=True)
class Recording:
    """Recorded orbits. A unit is what stops on its own: an example, or one of its tokens.

    Attributes:
        scores: by name, the doubt about each unit after each iteration. Smaller means less doubt; infinite where it could
            not be computed.
        answers: what each unit answers after each iteration, one column for each token that belongs to it; -1 where
            the readout gives no answer.
        right: whether each unit is right after each iteration; None without targets.
        examples: the example that each unit belongs to.
        residual: relative residual of the whole example of each unit after the last iteration.
    """

    scores: dict[str, Float[Tensor, "iterations units"]]
    answers: Int[Tensor, "iterations units tokens"]
    right: Bool[Tensor, "iterations units"] | None
    examples: Int[Tensor, "units"]
    residual: Float[Tensor, "units"]

    @property
    def iterations(self) -> int:
        """Number of iterations."""
        return len(self.answers)

    @property
    def final(self) -> Bool[Tensor, "iterations units"]:
        """Whether each unit gives the answer that it gives after the last iteration."""
        same = (self.answers == self.answers[-1]).all(-1)
        return same & (self.answers >= 0).all(-1)


@dataclass
class _Pass:
    """The scores of one part of the batch, iteration by iteration."""

    scores: dict[str, list[Tensor]] = field(default_factory=dict)
    answers: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)

    def add(self, name: str, score: Tensor) -> None:
        self.scores.setdefault(name, []).append(score.nan_to_num(nan=torch.inf, posinf=torch.inf).flatten().cpu())


@dataclass(frozen=True)
class Judge:
    """What counts as an answer, and which answers are right.

    Attributes:
        unit: what stops on its own, "example" or "token".
        targets: for tokens, the class of each token that is read.
        correct: for examples, the rule that says which are right.
        answers: for examples, what a readout answers, one row per example; the largest logits' places if None.
    """

    unit: AnswersPer
    targets: Tensor | None = None
    correct: Correct | None = None
    answers: Answers | None = None

    def said(self, logits: Tensor) -> Int[Tensor, "units tokens"]:
        """Return what each unit answers; -1 where the readout gives no answer."""
        known = gives_answer(logits)
        if self.unit == "token":
            return predictions(logits).int().masked_fill(~known, -1).reshape(-1, 1)
        if self.answers is None:
            return predictions(logits).int().masked_fill(~known, -1).reshape(len(logits), -1)
        said = self.answers(logits).int().reshape(len(logits), -1)
        return said.masked_fill(~known.reshape(len(logits), -1).all(1)[:, None], -1)

    def right(self, logits: Tensor, rows: Tensor) -> Bool[Tensor, "units"] | None:
        """Return which units are right; None without targets."""
        if self.unit == "token" and self.targets is not None:
            wanted = self.targets[rows].to(logits.device)
            if wanted.shape != logits.shape[:-1]:
                raise LoopscopeError(
                    f"targets have shape {tuple(self.targets.shape)}, expected the shape of the logits without their last "
                    f"dimension, {(len(self.targets), *logits.shape[1:-1])}: one class per token that is read"
                )
            return ((predictions(logits) == wanted) & gives_answer(logits)).flatten()
        return None if self.correct is None else self.correct(logits, rows)


def _per_unit(tokens: Tensor, unit: AnswersPer, mask: Tensor | None) -> Tensor:
    """Return the score of each unit: the largest over the real tokens of an example, or that of each token."""
    if unit == "token" or tokens.ndim == 1:
        return tokens
    if mask is not None and mask.shape == tokens.shape:
        tokens = tokens.masked_fill(~mask, 0)
    return tokens.flatten(1).amax(1)


def _of_state(
    before: Tree, after: Tree, unit: AnswersPer, logits: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return residual and cosine of each unit. A token whose own state is not known has those of its example."""
    if unit == "token":
        residual, turned = movement(before, after, mask)
        if residual.shape == logits.shape[:-1]:
            return residual, turned
    residual, turned = movement_of_examples(before, after, mask)
    if unit == "token":
        shape = logits.shape[:-1]
        residual, turned = (score.view(-1, *[1] * (len(shape) - 1)).expand(shape) for score in (residual, turned))
    return residual, turned


def _gate(loop: Loop, state: Tree, recalled: Tree, units: int, logits: Tensor) -> Tensor | None:
    """Return one minus the probability that a learned gate gives to stopping, per unit; None if the loop has no gate.

    Raises:
        LoopscopeError: the gate gives neither one number per unit nor one per example.
    """
    gate = getattr(loop, "gate", None)
    said = None if gate is None else gate(state, recalled)
    if said is None:
        return None
    if not isinstance(said, Tensor) or said.numel() not in (units, len(logits)):
        given = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise LoopscopeError(
            f"the loop's gate returned {given}, expected a tensor with one probability of stopping per answer ({units}) or "
            f"per example ({len(logits)})"
        )
    said = said.reshape(len(said), -1).double()
    return 1 - (said if said.numel() == units else said.expand(len(logits), units // len(logits))).flatten()


def _going_on(loop: Loop, state: Tree, recalled: Tree, units: int, logits: Tensor) -> Tensor:
    """Return the probability that a gate has not stopped before the first iteration, per unit.

    It is 1, unless the first state is what the model's own first iteration made.
    """
    first = _gate(loop, state, recalled, units, logits) if getattr(loop, "iterations_before", 0) else None
    return torch.ones(units, dtype=torch.float64, device=logits.device) if first is None else first


def _record(
    loop: Loop,
    ready: Prepared,
    rows: Tensor,
    iterations: int,
    judge: Judge,
) -> tuple[_Pass, Tensor, int]:
    """Run one part of the batch. Return what was recorded, the last residual of each example and the units per example."""
    recalled, state = select(ready.recalled, rows), select(ready.start, rows)
    mask = None if ready.mask is None else ready.mask[rows]
    logits = readout(loop, state, recalled)
    said = judge.said(logits)
    streak = torch.zeros(len(said), dtype=torch.float64, device=logits.device)
    going_on = _going_on(loop, state, recalled, len(said), logits)
    log = log_probabilities(logits)
    uncertain_before = entropy_of(log)
    found = _Pass()
    residual = torch.zeros(len(rows))
    for _ in range(iterations):
        before, log_before, said_before = state, log, said
        state = loop.step(state, recalled)
        logits = readout(loop, state, recalled)
        log, said = log_probabilities(logits), judge.said(logits)
        uncertain = entropy_of(log)
        same = ((said == said_before) & (said >= 0)).all(1)
        streak = torch.where(same, streak + 1, 0.0)
        residual = movement_of_examples(before, state, mask)[0]
        for name, score in zip(OF_STATE, _of_state(before, state, judge.unit, logits, mask), strict=True):
            found.add(name, score)
        found.add(DIVERGENCE, _per_unit(divergence_of(log_before, log), judge.unit, mask))
        found.add(ENTROPY, _per_unit((uncertain - uncertain_before).abs(), judge.unit, mask))
        uncertain_before = uncertain
        found.add(PATIENCE, -streak)
        if (doubt := _gate(loop, state, recalled, len(said), logits)) is not None:
            found.add(GATE, doubt)
            going_on = going_on * doubt
            found.add(ACCUMULATED, going_on)
        found.answers.append(said.cpu())
        if (right := judge.right(logits, rows)) is not None:
            found.right.append(right.cpu())
    return found, residual.cpu(), len(found.answers[-1]) // len(rows)


def _parts(batch: int, at_once: int) -> Iterator[slice]:
    size = max(1, at_once // 2)  # log probabilities are in double precision
    yield from (slice(begin, min(begin + size, batch)) for begin in range(0, batch, size))


@torch.no_grad()
def record(loop: Loop, ready: Prepared, iterations: int, judge: Judge) -> Recording:
    """Run every orbit once and record its scores and answers.

    Args:
        loop: the loop, in eval mode and without autocast.
        ready: its first states (see ``prepare``).
        iterations: number of iterations.
        judge: what counts as an answer, and which are right.

    Raises:
        LoopscopeError: the loop's gate or the targets have a wrong shape.
    """
    batch = batch_size(ready.start)
    at_once = examples_at_once(loop, ready.start, ready.recalled)
    places = torch.arange(batch)
    parts = [(places[part], *_record(loop, ready, places[part], iterations, judge)) for part in _parts(batch, at_once)]
    passes = [found for _, found, _, _ in parts]
    judged = bool(passes[0].right)
    found = Recording(
        scores={
            name: torch.cat([torch.stack(found.scores[name]) for found in passes], dim=1) for name in passes[0].scores
        },
        answers=torch.cat([torch.stack(found.answers) for found in passes], dim=1),
        right=torch.cat([torch.stack(found.right) for found in passes], dim=1) if judged else None,
        examples=torch.cat([rows.repeat_interleave(units) for rows, _, _, units in parts]),
        residual=torch.cat([residual.repeat_interleave(units) for _, _, residual, units in parts]),
    )
    real = ready.mask
    padded = judge.unit == "token" and real is not None and real.numel() == len(found.examples)
    return _without_padding(found, real.flatten().cpu()) if padded and real is not None else found


def _without_padding(recording: Recording, real: Bool[Tensor, "units"]) -> Recording:
    """Return the recording of the real tokens alone."""
    return Recording(
        scores={name: score[:, real] for name, score in recording.scores.items()},
        answers=recording.answers[:, real],
        right=None if recording.right is None else recording.right[:, real],
        examples=recording.examples[real],
        residual=recording.residual[real],
    )
