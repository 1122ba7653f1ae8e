"""HRM as published by its authors: the low-level network runs several times, then the high-level one once."""

from __future__ import annotations

from loopscope.adapters.families.family import Family
from loopscope.adapters.families.trm import puzzles, run_cycles

FAMILY = Family(
    name="HRM",
    classes=("HierarchicalReasoningModel_ACTV1",),
    at=lambda model: "inner.H_level",
    run=run_cycles,
    example=puzzles,
)
