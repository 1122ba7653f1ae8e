"""What a benchmark ran on, for its JSON and its first line."""

from __future__ import annotations

import os
import platform

import torch


def setting(**options: float) -> dict[str, object]:
    """Return the machine, the threads and PyTorch's version, and the options of the run."""
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **options,
    }
