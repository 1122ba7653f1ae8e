"""What a benchmark ran on, for its JSON and its first line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch

from loopscope.studies.machine import code, graphics, processor


def setting(**options: object) -> dict[str, object]:
    """Return the processor, the GPU, the cores and threads, PyTorch's version, which code ran, and the options of the run.

    Call it once the number of threads is set. ``code`` is the hash of what of the package decides how a training ends,
    ``commit`` that of the benchmark, with ``-dirty`` where files differ from it, None where Git does not know.
    """
    return {
        "machine": processor(),
        "gpu": graphics(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "code": code(),
        "commit": commit(),
        **options,
    }


def commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()
