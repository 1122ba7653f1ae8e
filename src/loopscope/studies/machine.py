"""What computed: results are the same bit for bit on one machine and by one code, so that a run says which they were."""

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
    """Return the processor's name and its number of logical cores, as far as the system tells."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def graphics() -> str | None:
    """Return the name of the first graphics processor, None where CUDA finds none."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


TRAINING = ("evaluation.py", "fixed_points", "linear.py", "loop.py", "models", "tasks", "training")
"""What of the package decides which model a training ends with, and what its curves are."""


@cache
def code(package: Path = Path(loopscope.__file__).parent) -> str:
    """Return eight digits of the hash of that code: a sum in another order is rounded otherwise, and may end elsewhere."""
    digest = hashlib.sha256()
    for name in TRAINING:
        place = package / name
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def this_machine() -> str:
    """Return the processor, the first graphics processor where there is one, the version of torch, and the code."""
    return "; ".join([*filter(None, [processor(), graphics()]), f"torch {version('torch')}", f"loopscope {code()}"])


def note_machine(run: RunFolder) -> None:
    """Add this machine to those that a run is trained on, unless it is among them."""
    here = this_machine()
    known = read_json_if_any(run.machines, list[str], absent=[])
    if here not in known:
        write_json(run.machines, [*known, here])
