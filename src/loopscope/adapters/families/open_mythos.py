"""OpenMythos: a prelude, a recurrent block that is told the index of the loop, and a readout over all loops."""

from __future__ import annotations

from typing import Any

from loopscope.adapters.families.family import Family, tokens
from loopscope.adapters.running import call
from loopscope.trees import Tree


def _run(model: Any, inputs: Tree, iterations: int) -> Any:
    return call(model, inputs, n_loops=iterations)


FAMILY = Family(
    name="OpenMythos",
    classes=("OpenMythos",),
    at=lambda model: "recurrent.block",
    run=_run,
    example=lambda model: {"input_ids": tokens(model.cfg.vocab_size)},
    refusal=lambda model: (
        "its iterations depend on their index (an embedding of it, and LoRA), and its readout weighs all of them: it is "
        "time-dependent and no single map"
    ),
)
