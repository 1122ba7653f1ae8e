"""Recall: how the input re-enters the loop. R(z, e) = W_state z + W_input e + bias (paper, architecture table)."""

from __future__ import annotations

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

    def argument(self, argument: Tokens, injected: dict[str, Tensor]) -> Tokens:
        """Return what a sub-layer is applied to."""
        return argument


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

    def argument(self, argument: Tokens, injected: dict[str, Tensor]) -> Tokens:
        """Return R(a, e)."""
        return self.recall(argument, injected)


def make_recall(name: str, width: int) -> NoRecall:
    """Return the recall of this name: none, external or internal."""
    check_choice("recall", name, ("none", "external", "internal"))
    return {"none": lambda _: NoRecall(), "external": ExternalRecall, "internal": InternalRecall}[name](width)
