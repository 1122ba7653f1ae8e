"""Checkpoints, written atomically: weights and optimizer state as safetensors, counters as JSON."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from loopscope.errors import LoopscopeError
from loopscope.files import explain_write, make_folder, read_json_as, write_bytes

MODEL, OPTIMIZER, PROGRESS = "model.safetensors", "optimizer.safetensors", "progress.json"


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Args:
        step: number of optimizer steps done.
        seconds: total training time, including the time before each resume.
    """

    step: int
    seconds: float


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entries in state.items() for name, value in entries.items()}


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint into ``folder``/step-N, then remove older ones.

    Raises:
        LoopscopeError: the checkpoint cannot be written, or the folder is a link. The last good checkpoint is kept.
    """
    _check_not_a_link(folder)
    make_folder(folder)
    partial, final = folder / "partial", folder / f"step-{progress.step:07d}"
    _check_not_a_link(partial)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        make_folder(partial)
        write_bytes(partial / MODEL, save({k: v.contiguous() for k, v in model.state_dict().items()}))
        write_bytes(partial / OPTIMIZER, save(_optimizer_tensors(optimizer)))
        write_bytes(partial / PROGRESS, json.dumps(asdict(progress)).encode())
        with explain_write(final):
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
    except LoopscopeError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    keep_only(final)


def keep_only(checkpoint: Path) -> None:
    """Remove all other checkpoints of the folder, such as one left behind by a killed process."""
    _check_not_a_link(checkpoint.parent)
    for other in checkpoint.parent.glob("step-*"):
        if other != checkpoint:
            shutil.rmtree(other, ignore_errors=True)


def _check_not_a_link(folder: Path) -> None:
    """Refuse a folder that is a link, because files would be written and removed at its target.

    Raises:
        LoopscopeError: the folder is a link.
    """
    if folder.is_symlink():
        raise LoopscopeError(f"{folder} is a link, expected a folder of this run: remove the link and run again")


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, or None if there is none."""
    checkpoints = sorted(path for path in folder.glob("step-*") if (path / PROGRESS).is_file())
    return checkpoints[-1] if checkpoints else None


def steps_done(folder: Path) -> int:
    """Return the number of training steps in the newest complete checkpoint, by its name, or 0 if there is none."""
    newest = latest_checkpoint(folder)
    number = newest.name.removeprefix("step-") if newest else ""
    return int(number) if number.isdecimal() else 0


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise LoopscopeError(
            f"{path} cannot be read as safetensors ({error}): remove its folder to start over"
        ) from error


def _restore(path: Path, put: Callable[[], Any]) -> None:
    try:
        put()
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LoopscopeError(f"{path} does not fit the model: {reason}") from error


def _optimizer_state(
    entries: dict[str, Tensor], parameters: list[Tensor], checkpoint: Path
) -> dict[int, dict[str, Tensor]]:
    """Return the state of AdamW by parameter. PyTorch itself would accept an incomplete state and fail or drift later."""
    shapes = {
        f"{index}.{name}": () if name == "step" else tuple(parameter.shape)
        for index, parameter in enumerate(parameters)
        for name in ("step", "exp_avg", "exp_avg_sq")
    }
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in entries.items():
        if shapes.get(key) != tuple(value.shape):
            raise LoopscopeError(f"{checkpoint / OPTIMIZER} does not fit the model: {key} {tuple(value.shape)}")
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    # A parameter without a gradient so far has no entries. Any other parameter has all three.
    if cut := [index for index, entry in state.items() if len(entry) < 3]:
        raise LoopscopeError(
            f"{checkpoint / OPTIMIZER} lacks tensors of parameter {cut[0]}: remove its folder to start over"
        )
    return state


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the weights and optimizer state of a checkpoint, and return its progress.

    Raises:
        LoopscopeError: the checkpoint is damaged or belongs to another model.
    """
    progress = read_json_as(checkpoint / PROGRESS, Progress, "remove its folder to start over")
    weights, entries = _load(checkpoint / MODEL), _load(checkpoint / OPTIMIZER)
    groups = optimizer.state_dict()["param_groups"]
    state = _optimizer_state(entries, [p for group in optimizer.param_groups for p in group["params"]], checkpoint)
    _restore(checkpoint, lambda: model.load_state_dict(weights))
    _restore(checkpoint, lambda: optimizer.load_state_dict({"state": state, "param_groups": groups}))
    return Progress(**progress)
