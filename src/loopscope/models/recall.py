"""Recall: how the input re-enters the loop. R(z, e) = W_state z + W_input e + bias (paper, architecture table)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from loopscope.errors import check_choice

Tokens = Float[Tensor, "batch tokens width"]


class NoRecall(nn.Module):
    """The input only makes the first state; the loop is autonomous."""

    def inject(self, embedding: Tokens) -> dict[str, Tensor]:
        """Return what each iteration recalls, computed once per problem: here nothing."""
        return {}

    def enter(self, state: Tokens, injected: dict[str, Tensor]) -> Tokens:
        """Return the state that an iteration begins with."""
        return state

    def first(self, linear: nn.Module, argument: Tokens, injected: dict[str, Tensor]) -> Tensor:
        """Return what the first linear map of a sub-layer makes of its argument."""
        features: Tensor = linear(argument)
        return features


class _LinearRecall(NoRecall):
    """What external and internal recall share: the linear map R, with W_input e + bias computed once."""

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
    """z <- R(z, e) once per iteration: the residual starts from the recalled state."""

    def enter(self, state: Tokens, injected: dict[str, Tensor]) -> Tokens:
        """Return R(z, e)."""
        return self.recall(state, injected)


class InternalRecall(_LinearRecall):
    """Each sub-layer's argument a becomes R(a, e): the identity path carries z."""

    def first(self, linear: nn.Module, argument: Tokens, injected: dict[str, Tensor]) -> Tensor:
        """Return the linear map of R(a, e)."""
        return super().first(linear, self.recall(argument, injected), injected)


class FoldedLinear(nn.Module):
    """A linear map W and the W_state before it in one product; what recall adds is added by `FoldedRecall`.

    Args:
        name: its own among those of the model.
        linear: the linear map.
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
    """Internal recall inside the linear maps behind it: W R(a, e) = (W W_state) a + W (W_input e + bias) + b.

    Args:
        of_input: W_input and the bias.
        linears: the linear maps behind recall.
    """

    def __init__(self, of_input: nn.Linear, linears: list[FoldedLinear]) -> None:
        super().__init__()
        self.input, self.linears = of_input, linears

    def inject(self, embedding: Tokens) -> dict[str, Tensor]:
        """Return what each linear map makes of W_input e + bias."""
        injection = self.input(embedding)
        return {folded.name: folded.linear(injection) for folded in self.linears}

    def first(self, linear: nn.Module, argument: Tokens, injected: dict[str, Tensor]) -> Tensor:
        """Return the linear map of R(a, e)."""
        assert isinstance(linear, FoldedLinear)
        return super().first(linear, argument, injected) + injected[linear.name]


def make_recall(name: str, width: int) -> NoRecall:
    """Return the recall of this name: none, external or internal."""
    check_choice("recall", name, ("none", "external", "internal"))
    return {"none": lambda _: NoRecall(), "external": ExternalRecall, "internal": InternalRecall}[name](width)
