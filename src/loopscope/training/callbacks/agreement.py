"""Agreement of several processes on stopping: one process measures, and all of them stop after the same step."""

from __future__ import annotations

import torch
from torch import distributed


def any_process(asks: bool, device: torch.device) -> bool:
    """Return whether any process asks; every process must call this after the same step.

    Args:
        asks: whether this process asks.
        device: device of this process, on which the backend of ``torch.distributed`` can exchange tensors.

    Example:
        >>> any_process(True, torch.device("cpu"))
        True
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return asks
    asked = torch.tensor(float(asks), device=device)
    distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
    return bool(asked)
