"""HRM-Text: ``transformers``, models/hrm_text. L runs several times, then H once; the state holds both."""

from __future__ import annotations

from typing import Any

from loopscope.adapters.families.family import Family, last_token, setting, text
from loopscope.adapters.running import call
from loopscope.trees import Tree


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    with setting(model.config, "H_cycles", iterations):
        return call(model, inputs)


FAMILY = Family(
    name="HRM-Text",
    classes=("HrmTextForCausalLM", "HrmTextModel"),
    at=lambda model: "H_module" if hasattr(model, "H_module") else f"{model.base_model_prefix}.H_module",
    run=_run,
    positions=last_token,
    answers_per="token",
    example=lambda model: text(model.config.vocab_size),
)
