"""Ouro (ByteDance), remote code. An iteration is all layers and the norm; no input is recalled.

Its gate reads the state after each iteration. Ouro itself stops where the probabilities of having stopped add up to a threshold.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loopscope.adapters.families.family import Family, last_token, setting, text
from loopscope.adapters.running import call
from loopscope.trees import Tree

COUNT = "total_ut_steps"
"""Name of the number of iterations, in the decoder or in its config."""


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    decoder = getattr(model, "model", model)
    with setting(decoder if hasattr(decoder, COUNT) else model.config, COUNT, iterations):
        return call(model, inputs)


def _gate(model: Any, state: Tree) -> Tensor | None:
    gate = getattr(getattr(model, "model", model), "early_exit_gate", None)
    return None if gate is None else gate(state).squeeze(-1).sigmoid()


FAMILY = Family(
    name="Ouro",
    classes=("OuroForCausalLM", "OuroModel"),
    at=lambda model: "model.norm" if hasattr(model, "model") else "norm",
    run=_run,
    positions=last_token,
    answers_per="token",
    gate=_gate,
    example=lambda model: text(model.config.vocab_size),
)
