"""Huginn (Raven), remote code with ``core_block_forward``: a random first state, and input recall in every iteration."""

from __future__ import annotations

from typing import Any

from loopscope.adapters.families.family import Family, last_token, tokens
from loopscope.adapters.running import call
from loopscope.trees import Tree


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    return call(model, inputs, num_steps=iterations)


FAMILY = Family(
    name="Huginn",
    classes=("RavenForCausalLM", "HuginnForCausalLM"),
    at=lambda model: "core_block_forward",
    run=_run,
    positions=last_token,
    answers_per="token",
    example=lambda model: {"input_ids": tokens(model.config.vocab_size)},
)
