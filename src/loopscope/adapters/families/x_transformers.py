"""A ``TransformerWrapper`` of x-transformers with ``looped=True``: the stack of layers is an iteration."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loopscope.adapters.families.family import Family, tokens
from loopscope.adapters.running import call
from loopscope.trees import Tree


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    return call(model, inputs, looped_steps=iterations)


def _gate(model: Any, state: Tree) -> Tensor | None:
    gate = getattr(model, "exit_gate", None)
    return None if gate is None else gate(state).squeeze(-1).sigmoid()


def _refusal(model: Any) -> str | None:
    return None if getattr(model, "looped", False) else "it is not looped: build it with looped=True"


FAMILY = Family(
    name="x-transformers",
    classes=("TransformerWrapper",),
    at=lambda model: "attn_layers",
    run=_run,
    positions=lambda model: "last" if model.attn_layers.causal else "all",
    answers_per="token",
    gate=_gate,
    example=lambda model: {"x": tokens(model.num_tokens, width=min(8, model.max_seq_len))},
    refusal=_refusal,
)
