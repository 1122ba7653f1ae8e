"""HRM as published by its authors: the low-level network runs several times, then the high-level one once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loopscope.adapters.families.family import Family
from loopscope.adapters.families.trm import gate_logits, puzzles, run_cycles
from loopscope.trees import Tree


def _gate(model: Any, state: Tree) -> Tensor:
    stop, go_on = gate_logits(model, state).unbind(1)
    return (stop - go_on).sigmoid()


FAMILY = Family(
    name="HRM",
    classes=("HierarchicalReasoningModel_ACTV1",),
    at=lambda model: "inner.H_level",
    run=run_cycles,
    gate=_gate,
    example=puzzles,
)
