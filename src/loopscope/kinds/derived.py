"""Loops that are made of another one, with the same inputs, mask and modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loopscope.loop import FunctionLoop, Loop, answers_per, mask_of, modules_of, outer_gain_of
from loopscope.trees import Tree


def derived(
    loop: Loop, *, start: Callable[..., Tree], step: Callable[..., Tree], read: Callable[[Tree, Tree], Tensor]
) -> FunctionLoop:
    """Return a loop with another start, step and readout, and all else of the given one."""
    modules = modules_of(loop)
    return FunctionLoop(
        encode=loop.encode,
        start=start,
        step=step,
        read=lambda state, recalled: read(state, recalled),
        padding=lambda recalled: mask_of(loop, recalled),
        module=torch.nn.ModuleList(modules) if len(modules) > 1 else next(iter(modules), None),
        outer_gain=outer_gain_of(loop),
        answers_per=answers_per(loop),
    )
