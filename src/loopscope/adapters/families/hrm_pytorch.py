"""``HRM`` of the package hrm-pytorch, with and without adaptive computation: its networks run at different periods."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loopscope.adapters.families.family import Family, tokens
from loopscope.trees import Tree


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    if hasattr(model, "max_reasoning_steps"):
        # Adaptive computation stops for some examples earlier than for others.
        return model(inputs, max_reasoning_steps=iterations, adaptive_compute=False)[0]
    return model(inputs, reasoning_steps=iterations)[0]


def _gate(model: Any, state: Tree) -> Tensor | None:
    if not hasattr(model, "to_q_halt_continue"):
        return None
    stop, go_on = model.to_q_halt_continue(state[f"networks.{model.num_networks - 1}"])
    return (stop - go_on).sigmoid()


FAMILY = Family(
    name="hrm-pytorch",
    classes=("HRM",),
    at=lambda model: f"networks.{model.num_networks - 1}",
    run=_run,
    gate=_gate,
    example=lambda model: tokens(model.to_input_embed.num_embeddings),
)
