"""TRM as published by its authors: one network refines the latent several times, then the answer."""

from __future__ import annotations

from typing import Any

import torch

from loopscope.adapters.families.family import EXAMPLES, Family, setting, tokens
from loopscope.trees import Tree


def run_cycles(model: Any, inputs: Tree, iterations: int) -> Any:
    """Run the model's first segment with another number of H cycles; the carry is reset there."""
    with setting(model.inner.config, "H_cycles", iterations):
        return model(model.initial_carry(inputs), inputs)[1]["logits"]


def puzzles(model: Any) -> dict[str, torch.Tensor]:
    """Return a few random puzzles."""
    config = model.inner.config
    identifiers = torch.arange(EXAMPLES) % config.num_puzzle_identifiers
    return {"inputs": tokens(config.vocab_size, width=config.seq_len), "puzzle_identifiers": identifiers}


def gate_logits(model: Any, state: Tree) -> torch.Tensor:
    """Return what the model's halting head says of a state, [batch, 2]: to stop, and to go on.

    The head reads the first token of the high-level state, which is the last that an iteration computes.
    """
    return model.inner.q_head(list(state.values())[-1][:, 0]).float()


FAMILY = Family(
    name="TRM",
    classes=("TinyRecursiveReasoningModel_ACTV1",),
    at=lambda model: "inner.L_level",
    run=run_cycles,
    gate=lambda model, state: gate_logits(model, state)[:, 0].sigmoid(),
    example=puzzles,
    every=lambda model: model.inner.config.L_cycles + 1,
)
