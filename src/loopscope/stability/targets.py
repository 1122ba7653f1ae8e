"""Targets, which say which answers are right: class indices or a user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from loopscope.checks import check_answers, check_outputs_last
from loopscope.errors import LoopscopeError
from loopscope.loop import AnswersPer, Loop, answers_per
from loopscope.readouts import read_some
from loopscope.stability.orbits.answers import Answers, Correct, at_every_token, gives_answer, predictions
from loopscope.trees import Tree

Targets = Tensor | Callable[[Tensor, Tensor], Tensor]


def check_targets(targets: Targets | None, examples: int) -> None:
    """Refuse targets that cannot say which answers are right.

    Raises:
        LoopscopeError: targets are neither a tensor nor a function of two arguments, their number differs from the number of
            inputs, or they are not whole numbers.
    """
    if targets is not None and not isinstance(targets, Tensor) and not callable(targets):
        raise LoopscopeError(
            f"targets are of type {type(targets).__name__}, expected a tensor of class indices (torch.as_tensor makes one) or "
            "a function (logits, rows) -> right"
        )
    if isinstance(targets, Tensor) and targets.shape[:1] != (examples,):
        raise LoopscopeError(
            f"targets have shape {tuple(targets.shape)}, expected {examples} as the first dimension, one entry per input"
        )
    if isinstance(targets, Tensor) and targets.is_floating_point() and not bool((targets == targets.round()).all()):
        wrong = targets[targets != targets.round()][0].item()
        raise LoopscopeError(f"targets contain {wrong:g}, expected class indices: whole numbers of at least 0")
    if callable(targets) and not _takes_two(targets):
        raise LoopscopeError(
            f"targets is a function of {inspect.signature(targets)}, expected (logits, rows), where rows are the positions of "
            "these logits among the inputs"
        )


def _takes_two(rule: Correct) -> bool:
    try:
        inspect.signature(rule).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # some built-in functions have no signature
        return True
    return True


def check_readout(loop: Loop, start: Tree, recalled: Tree, targets: Targets | None, answers: Answers | None) -> None:
    """Refuse a readout that gives no answers to count; as many examples are read as are held at once.

    Args:
        loop: the loop.
        start: the first states.
        recalled: their recalled input.
        targets: the same as for ``examine``.
        answers: the same as for ``examine``.

    Raises:
        LoopscopeError: there is no output for each token of a loop whose answers are counted by token, outputs come before
            tokens, or ``answers`` returns something else than a row of answers for each example.
    """
    logits = read_some(loop, start, recalled)
    by_token = answers_per(loop) == "token"
    if by_token and logits.ndim < 3:
        raise LoopscopeError(
            f"read returned logits of shape {tuple(logits.shape)}, expected (batch, tokens, outputs) for a loop whose "
            'answers_per is "token": leave answers_per out'
        )
    if answers is None:
        if targets is None and not by_token:
            check_outputs_last(logits, start)
        return
    answered = check_answers(answers, logits)
    if by_token and answered.shape != logits.shape[:-1]:
        raise LoopscopeError(
            f"answers returned shape {tuple(answered.shape)}, expected {tuple(logits.shape[:-1])}, one for each token, for a loop "
            'whose answers_per is "token"'
        )


def rule_of(targets: Targets | None, mask: Tensor | None = None, per: AnswersPer = "example") -> Correct | None:
    """Return the rule that says which answers are right, as a function of logits and the rows of the batch they belong to.

    An answer is never right if its readout gives no answer, for example because it is NaN.

    Args:
        targets: the same as for ``examine``.
        mask: true where a token is real. If there is a target for each token, padding is neither right nor wrong.
        per: what one answer belongs to.
    """
    if targets is None:
        return None
    right = _checked(targets, per) if callable(targets) else _matching(targets, mask, per)

    def judge(logits: Tensor, rows: Tensor) -> Tensor:
        known = gives_answer(logits)
        if per == "token":
            return right(logits, rows) & known
        return right(logits, rows) & at_every_token(known, None if mask is None else mask[rows])

    return judge


def _matching(targets: Tensor, mask: Tensor | None, per: AnswersPer) -> Correct:
    """Return the rule that an answer is right if its predictions equal the targets."""

    def compare(logits: Tensor, rows: Tensor) -> Tensor:
        if logits.shape[:-1] != (len(rows), *targets.shape[1:]):
            raise LoopscopeError(
                f"targets have shape {tuple(targets.shape)}, expected the shape of the logits without their last dimension, "
                f"{tuple(logits.shape[:-1])}; or give a function (logits, rows) -> right"
            )
        wanted = targets.to(logits.device)
        _check_classes(wanted, mask, max(logits.shape[-1], 2))
        right = predictions(logits) == wanted[rows]
        if per == "token":
            return right
        if mask is not None and mask.shape == targets.shape:
            right = right | ~mask[rows]
        return right.reshape(len(rows), -1).all(1)

    return compare


def _check_classes(targets: Tensor, mask: Tensor | None, classes: int) -> None:
    real = targets if mask is None or mask.shape != targets.shape else targets[mask]
    wrong = real[(real < 0) | (real >= classes)]
    if len(wrong):
        raise LoopscopeError(
            f"targets contain {wrong[0].item()}, expected classes from 0 to {classes - 1}, since no answer would ever be right: "
            "if tokens are padded, give the loop a mask, otherwise give a function (logits, rows) -> right"
        )


def _checked(rule: Correct, per: AnswersPer) -> Correct:
    """Return a user's rule with a check that its results say which rows, or which tokens, are right."""

    def asked(logits: Tensor, rows: Tensor) -> Tensor:
        right = rule(logits, rows)
        shape = logits.shape[:-1] if per == "token" else (len(rows),)
        if not isinstance(right, Tensor) or right.dtype != torch.bool or right.shape != shape:
            given = (
                f"{right.dtype} of shape {tuple(right.shape)}" if isinstance(right, Tensor) else type(right).__name__
            )
            what = "each token" if per == "token" else "the whole answer of each row"
            raise LoopscopeError(
                f"the function given as targets returned {given}, expected torch.bool of shape {tuple(shape)}, which says "
                f"whether {what} is right"
            )
        return right.to(logits.device)

    return asked
