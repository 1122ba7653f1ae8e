"""``TinyRecursiveModel`` of the package tiny-recursive-model: refines its latents several times, then the answer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loopscope.adapters.families.family import Family, setting, tokens
from loopscope.trees import Tree

PREDICTION = 2
"""Index of the prediction in the returned tuple: (outputs, latents, prediction, halting probability)."""


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    with setting(model, "num_refinement_blocks", iterations):
        return model(inputs, *model.get_initial())[PREDICTION]


def _gate(model: Any, state: Tree) -> Tensor:
    return model.to_halt_pred(state["outputs"]).sigmoid()


def _width(model: Any) -> int:
    """Return the number of tokens that the network takes, if that number is fixed (an MLP mixer)."""
    mixed = [module.in_channels for module in model.network.modules() if hasattr(module, "in_channels")]
    return mixed[0] - len(model.register_tokens) if mixed else 8


FAMILY = Family(
    name="TinyRecursiveModel",
    classes=("TinyRecursiveModel",),
    at=lambda model: "refine_latent_then_output_once",
    run=_run,
    gate=_gate,
    example=lambda model: tokens(model.input_embed.num_embeddings, width=_width(model)),
)
