"""What computed: results are the same bit for bit on one machine alone, so that a run says which it was."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from loopscope.files import read_json_if_any, write_json
from loopscope.training.runs import RunFolder


def processor() -> str:
    """Return the processor's name and its number of logical cores, as far as the system tells."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def this_machine() -> str:
    """Return the processor, the first graphics processor where there is one, and the version of torch."""
    graphics = [torch.cuda.get_device_name(0)] if torch.cuda.is_available() else []
    return "; ".join([processor(), *graphics, f"torch {version('torch')}"])


def machines_file(run: RunFolder) -> Path:
    """Return the file that says on which machines a run of a study was trained."""
    return run.path / "machines.json"


def note_machine(run: RunFolder) -> None:
    """Add this machine to those that a run is trained on, unless it is among them."""
    file, here = machines_file(run), this_machine()
    known = read_json_if_any(file, list[str], absent=[])
    if here not in known:
        write_json(file, [*known, here])
