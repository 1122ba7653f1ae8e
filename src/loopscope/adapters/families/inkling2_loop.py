"""Inkling2Loop: ``transformers``, models/inkling2_loop.

Every pass over the looped layers begins with the same input and takes messages from the previous pass. The tensors that
these messages are made from are the state.
"""

from __future__ import annotations

from typing import Any

from loopscope.adapters.families.family import Family, last_token, setting, text
from loopscope.adapters.running import call
from loopscope.trees import Tree


def _config(model: Any) -> Any:
    return getattr(model.config, "text_config", model.config)


def _last_looped_layer(model: Any) -> str:
    name = next(name for name, _ in model.named_modules() if name.split(".")[-1] == "message_input")
    return f"{name.removesuffix('message_input')}layers.{_config(model).loop_layer_index_end - 1}"


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    with setting(_config(model), "loop_num_passes", iterations):
        return call(model, inputs)


FAMILY = Family(
    name="Inkling2Loop",
    classes=("Inkling2LoopForCausalLM", "Inkling2LoopForConditionalGeneration", "Inkling2LoopTextModel"),
    at=_last_looped_layer,
    run=_run,
    positions=last_token,
    answers_per="token",
    example=lambda model: text(_config(model).vocab_size),
)
