"""The setting of a benchmark (machine, versions, options), for its JSON and its first line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch

from loopscope.studies.machine import code, graphics, processor


def setting(**options: object) -> dict[str, object]:
    """Return the processor, GPU, cores, threads, version of PyTorch, version of the code, and options of the run.

    Call it after the number of threads has been set. ``code`` is the hash of the part of the package that affects training.
    ``commit`` is the Git commit, followed by ``-dirty`` if files differ from it, or None outside of a Git repository.
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
