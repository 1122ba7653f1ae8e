"""Recall: how the input re-enters the loop (arXiv 2604.15259, architecture).

The recall map is R(z, e) = W_state z + W_input e + bias, with the state z and the embedding e of the input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from loopscope.errors import check_choice

Tokens = Float[Tensor, "batch tokens width"]


class NoRecall(nn.Module):
    """The input only sets the first state. The loop is autonomous."""

    def inject(self, embedding: Tokens) -> dict[str, Tensor]:
        """Return the tensors that every iteration recalls, computed once per problem: none here."""
        return {}

    def enter(self, state: Tokens, injected: dict[str, Tensor]) -> Tokens:
        """Return the state at which an iteration begins."""
        return state

    def first(self, linear: nn.Module, argument: Tokens, injected: dict[str, Tensor]) -> Tensor:
        """Apply the first linear map of a sub-layer to its argument."""
        features: Tensor = linear(argument)
        return features


class _LinearRecall(NoRecall):
    """The recall map R, shared by external and internal recall. W_input e + bias is computed once per problem."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.state = nn.Linear(width, width, bias=False)
        self.input = nn.Linear(width, width)

    def inject(self, embedding: Tokens) -> dict[str, Tensor]:
        """Return W_input e + bias."""
        return {"injection": self.input(embedding)}

    def recall(self, state: Tokens, injected: dict[str, Tensor]) -> Tokens:
        """Return R(state, e)."""
        return self.state(state) + injected["injection"]


class ExternalRecall(_LinearRecall):
    """z <- R(z, e) once per iteration. The residual starts from the recalled state."""

    def enter(self, state: Tokens, injected: dict[str, Tensor]) -> Tokens:
        """Return R(z, e)."""
        return self.recall(state, injected)


class InternalRecall(_LinearRecall):
    """The argument a of each sub-layer becomes R(a, e). The identity path carries z."""

    def first(self, linear: nn.Module, argument: Tokens, injected: dict[str, Tensor]) -> Tensor:
        """Apply the first linear map to R(a, e)."""
        return super().first(linear, self.recall(argument, injected), injected)


class FoldedLinear(nn.Module):
    """A linear map W and the W_state before it, as one product. ``FoldedRecall`` adds the recalled input.

    Args:
        name: unique name within the model.
        linear: the linear map W.
        state: W_state.
    """

    def __init__(self, name: str, linear: nn.Module, state: nn.Linear) -> None:
        super().__init__()
        assert isinstance(linear, nn.Linear)
        self.name, self.linear = name, linear
        product = linear.weight.detach().double() @ state.weight.detach().double()
        self.weight = nn.Parameter(product.to(linear.weight.dtype), requires_grad=False)

    def forward(self, argument: Tokens) -> Tensor:
        """Return W W_state a."""
        return F.linear(argument, self.weight)


class FoldedRecall(NoRecall):
    """Internal recall folded into the linear maps that follow it: W R(a, e) = (W W_state) a + W (W_input e + bias) + b.

    Args:
        of_input: W_input and the bias.
        linears: the folded linear maps.
    """

    def __init__(self, of_input: nn.Linear, linears: list[FoldedLinear]) -> None:
        super().__init__()
        self.input, self.linears = of_input, linears

    def inject(self, embedding: Tokens) -> dict[str, Tensor]:
        """Return each linear map of W_input e + bias, by name."""
        injection = self.input(embedding)
        return {folded.name: folded.linear(injection) for folded in self.linears}

    def first(self, linear: nn.Module, argument: Tokens, injected: dict[str, Tensor]) -> Tensor:
        """Apply the first linear map to R(a, e)."""
        assert isinstance(linear, FoldedLinear)
        return super().first(linear, argument, injected) + injected[linear.name]


def recall_weights(model: object) -> tuple[Float[Tensor, "width width"], Float[Tensor, "width width"]] | None:
    """Return W_state and W_input of a model with linear recall, or None for any other model.

    Args:
        model: a looped transformer, or any other loop or module.

    Example:
        >>> from loopscope.models import LoopedTransformer, LoopedTransformerConfig
        >>> config = LoopedTransformerConfig(
        ...     recall="internal", width=16, heads=2, inputs=3, outputs=4, grid=(0,), attention="full"
        ... )
        >>> model = LoopedTransformer(config)
        >>> of_state, of_input = recall_weights(model)
        >>> of_state.shape
        torch.Size([16, 16])
    """
    recall = getattr(model, "recall", None)
    if not isinstance(recall, ExternalRecall | InternalRecall):
        return None
    return recall.state.weight.detach(), recall.input.weight.detach()


def matrix_radius(matrix: Float[Tensor, "width width"]) -> float:
    """Return the spectral radius of a small matrix, computed from all of its eigenvalues in float64.

    Example:
        >>> import torch
        >>> round(matrix_radius(torch.tensor([[0.0, -2.0], [2.0, 0.0]])), 6)
        2.0
    """
    return float(torch.linalg.eigvals(matrix.double().cpu()).abs().max())


RECALLS: dict[str, Callable[[int], NoRecall]] = {
    "none": lambda width: NoRecall(),
    "external": ExternalRecall,
    "internal": InternalRecall,
}
"""Recall classes by the name that a config gives them. Each is constructed from the width."""


def make_recall(name: str, width: int) -> NoRecall:
    """Return the recall called ``name`` for states of this width.

    Raises:
        LoopscopeError: there is no recall of that name.
    """
    check_choice("recall", name, RECALLS)
    return RECALLS[name](width)
