"""Huginn, or Raven: remote code with ``core_block_forward``; a random first state, and the input injected every time."""

from __future__ import annotations

from typing import Any

from loopscope.adapters.families.family import Family, tokens
from loopscope.adapters.running import call
from loopscope.trees import Tree


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    return call(model, inputs, num_steps=iterations)


FAMILY = Family(
    name="Huginn",
    classes=("RavenForCausalLM", "HuginnForCausalLM"),
    at=lambda model: "core_block_forward",
    run=_run,
    example=lambda model: {"input_ids": tokens(model.config.vocab_size)},
)
