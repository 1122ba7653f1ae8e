"""Targets: which answers are right, from class indices or from a user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.stability.orbits.trace import Correct, predictions

Targets = Tensor | Callable[[Tensor, Tensor], Tensor]


def check_targets(targets: Targets | None, examples: int) -> None:
    """Refuse targets that are not one for each input.

    Raises:
        LoopscopeError: they are neither a tensor nor a function of two arguments; or their shape and the number of inputs
            are named.
    """
    if targets is not None and not isinstance(targets, Tensor) and not callable(targets):
        raise LoopscopeError(
            f"targets are of type {type(targets).__name__}, expected a tensor of class indices (torch.as_tensor makes one) or "
            "a function (logits, rows) -> right"
        )
    if isinstance(targets, Tensor) and targets.shape[:1] != (examples,):
        raise LoopscopeError(
            f"targets have shape {tuple(targets.shape)}, expected one entry for each of the {examples} inputs first"
        )
    if callable(targets) and not _takes_two(targets):
        raise LoopscopeError(
            f"the function that targets are takes {inspect.signature(targets)}, expected (logits, rows): rows are the places of "
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


def rule_of(targets: Targets | None, mask: Tensor | None = None) -> Correct | None:
    """Return the rule that says which examples are right: maps (logits, rows of the batch that they belong to) to that.

    Args:
        targets: as ``examine`` takes them.
        mask: true where a token is real; with a target for each token, padding is neither right nor wrong.
    """
    if targets is None:
        return None
    if callable(targets):
        return _checked(targets)

    def compare(logits: Tensor, rows: Tensor) -> Tensor:
        if logits.shape[:-1] != (len(rows), *targets.shape[1:]):
            raise LoopscopeError(
                f"targets have shape {tuple(targets.shape)}, expected that of the logits without their last dimension, "
                f"{tuple(logits.shape[:-1])}; or give a function (logits, rows) -> right"
            )
        wanted = targets.to(logits.device)
        _check_classes(wanted, mask, max(logits.shape[-1], 2))
        right = predictions(logits) == wanted[rows]
        if mask is not None and mask.shape == targets.shape:
            right = right | ~mask[rows]
        return right.reshape(len(rows), -1).all(1)

    return compare


def _check_classes(targets: Tensor, mask: Tensor | None, classes: int) -> None:
    real = targets if mask is None or mask.shape != targets.shape else targets[mask]
    wrong = real[(real < 0) | (real >= classes)]
    if len(wrong):
        raise LoopscopeError(
            f"targets hold {wrong[0].item()}, expected classes from 0 to {classes - 1}: no answer would ever be right; where "
            "tokens are padded give the loop a mask, else a function (logits, rows) -> right"
        )


def _checked(rule: Correct) -> Correct:
    def asked(logits: Tensor, rows: Tensor) -> Tensor:
        right = rule(logits, rows)
        if not isinstance(right, Tensor) or right.dtype != torch.bool or right.shape != (len(rows),):
            given = (
                f"{right.dtype} of shape {tuple(right.shape)}" if isinstance(right, Tensor) else type(right).__name__
            )
            raise LoopscopeError(
                f"the function that targets are returned {given}, expected torch.bool of shape ({len(rows)},): whether the "
                "whole answer of each row is right"
            )
        return right.to(logits.device)

    return asked
