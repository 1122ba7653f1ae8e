"""HRM as its authors published it: the low-level network several times, then the high-level one."""

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
