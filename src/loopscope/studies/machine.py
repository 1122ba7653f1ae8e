"""The machine and the code of a run. Results are the same bit for bit on one machine with one version of the code."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

import loopscope
from loopscope.files import read_json_if_any, write_json
from loopscope.training.run_folder import RunFolder


def processor() -> str:
    """Return the name of the processor and its number of logical cores, as far as the system reports them."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def graphics() -> str | None:
    """Return the name of the first GPU, or None if CUDA finds none."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


TRAINING = (
    "contexts.py",
    "evaluation.py",
    "fixed_points",
    "gmres.py",
    "jacobian.py",
    "loop.py",
    "models",
    "tasks",
    "training",
    "trees.py",
)
"""The files and folders of the package that affect the trained model and its accuracy curves."""


@cache
def code(package: Path = Path(loopscope.__file__).parent) -> str:
    """Return eight digits of the hash of the code in ``TRAINING``.

    Any change to it may change rounding, and with it the model that training ends with.
    """
    digest = hashlib.sha256()
    for name in TRAINING:
        place = package / name
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def this_machine() -> str:
    """Return the processor, the first GPU if there is one, the version of torch, and the hash of the code."""
    return "; ".join([*filter(None, [processor(), graphics()]), f"torch {version('torch')}", f"loopscope {code()}"])


def note_machine(run: RunFolder) -> None:
    """Add this machine to the machines that a run was trained on, unless it is one of them."""
    here = this_machine()
    known = read_json_if_any(run.machines, list[str], absent=[])
    if here not in known:
        write_json(run.machines, [*known, here])
