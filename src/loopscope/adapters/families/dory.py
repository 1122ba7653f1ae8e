"""Dory (NVIDIA), a looped nGPT: ``transformers``, models/dory. An iteration ends with the last recurrent layer."""

from __future__ import annotations

from typing import Any

from loopscope.adapters.families.family import Family, last_token, setting, text
from loopscope.adapters.running import call
from loopscope.trees import Tree


def _last_recurrent_layer(model: Any) -> str:
    layers = "layers" if hasattr(model, "layers") else f"{model.base_model_prefix}.layers"
    return f"{layers}.{model.config.n_input_layers + model.config.n_recurrent_layers - 1}"


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    with setting(model.config, "n_recurrent_loops", iterations):
        return call(model, inputs)


FAMILY = Family(
    name="Dory",
    classes=("DoryForCausalLM", "DoryModel"),
    at=_last_recurrent_layer,
    run=_run,
    positions=last_token,
    answers_per="token",
    example=lambda model: text(model.config.vocab_size),
)
