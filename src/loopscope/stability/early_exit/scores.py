"""Scores of doubt after each iteration. A rule stops where its score falls to a threshold.

All scores are in float64, and smaller means less doubt.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from loopscope.trees import Tree, token_norms, tree_map

TINY = torch.finfo(torch.float64).tiny


def log_probabilities(logits: Tensor) -> Float[Tensor, "*tokens classes"]:
    """Return log probabilities. A single logit is that of the second of two classes."""
    logits = logits.double()
    if logits.shape[-1] == 1:
        return torch.cat([logsigmoid(-logits), logsigmoid(logits)], dim=-1)
    return log_softmax(logits, dim=-1)


def divergence(before: Tensor, after: Tensor) -> Float[Tensor, "*tokens"]:
    """Return how far the softmax has moved: the Kullback-Leibler divergence KL(after || before), in nats.

    Args:
        before: logits, classes last.
        after: logits of the same shape, one iteration later.

    Example:
        >>> one, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0986123]])
        >>> divergence(one, one).item(), round(divergence(one, other).item(), 4)
        (0.0, 0.1308)
    """
    return divergence_of(log_probabilities(before), log_probabilities(after))


def divergence_of(old: Tensor, new: Tensor) -> Float[Tensor, "*tokens"]:
    """Return the divergence KL(new || old) of log probabilities, in nats."""
    # A class without probability adds nothing, although its logarithm is infinite.
    return (new.exp() * (new - old)).masked_fill_(new == -torch.inf, 0.0).sum(-1).clamp_min(0)


def entropy(logits: Tensor) -> Float[Tensor, "*tokens"]:
    """Return the entropy of the softmax, in nats."""
    return entropy_of(log_probabilities(logits))


def entropy_of(log: Tensor) -> Float[Tensor, "*tokens"]:
    """Return the entropy of log probabilities, in nats."""
    return -(log.exp() * log).masked_fill_(log == -torch.inf, 0.0).sum(-1)


def _sizes(before: Tree, after: Tree, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norms of the states and of their difference, token by token."""
    old, new = tree_map(_doubled, before), tree_map(_doubled, after)
    change = tree_map(lambda one, other: other - one if one.is_floating_point() else one, old, new)
    return token_norms(old, mask), token_norms(new, mask), token_norms(change, mask)


def _doubled(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


def movement(before: Tree, after: Tree, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the relative residual and one minus the cosine of successive states, token by token.

    The residual is ||after - before|| / max(||before||, ||after||).

    Args:
        before: a state.
        after: the next state.
        mask: true where a token is real; both scores are 0 for padding.

    Example:
        >>> residual, turned = movement(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]]))
        >>> residual.item(), turned.item()
        (0.5, 0.0)
    """
    old, new, change = _sizes(before, after, mask)
    return change / torch.maximum(old, new).clamp_min(TINY), _turn(old, new, change)


def movement_of_examples(before: Tree, after: Tree, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return what `movement` returns for the whole state of each example."""
    old, new, change = (torch.linalg.vector_norm(tokens, dim=1) for tokens in _sizes(before, after, mask))
    return change / torch.maximum(old, new).clamp_min(TINY), _turn(old, new, change)


def _turn(old: Tensor, new: Tensor, change: Tensor) -> Tensor:
    # ||a - b||^2 = (||a|| - ||b||)^2 + 2 ||a|| ||b|| (1 - cos)
    return ((change.square() - (old - new).square()) / (2 * old * new).clamp_min(TINY)).clamp(0, 2)
