"""Small runs: settings that train in seconds, and the folder of a run that has finished."""

from pathlib import Path

import torch

from loopscope.models import build_model
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.settings import RunSettings, settings_from

TINY = {
    "task": "prefix-sums",
    "data": {"train_bits": 8, "test_bits": [8], "strings": 60},
    "model": {"width": 16, "heads": 2},
    "training": {
        "steps": 6,
        "batch_size": 8,
        "max_iterations": 4,
        "precision": "float32",
        "compile": False,
        "checkpoint_interval": 3,
        "log_interval": 1,
    },
}


def tiny(model: dict | None = None, **training) -> RunSettings:
    return settings_from(
        {**TINY, "model": {**TINY["model"], **(model or {})}, "training": {**TINY["training"], **training}}
    )


def finished(path: Path, **settings) -> RunFolder:
    """Return a finished run of an untrained model that contracts."""
    values = {
        "model": {"width": 16, "heads": 2, "recall": "external"},
        "evaluation": {"iterations": 60, "examples": 6},
        "training": {"compile": False},
        **settings,
    }
    complete = settings_from(values)
    run = open_run(path, complete, resume=False)
    torch.manual_seed(0)
    model = build_model(complete.model)
    with torch.no_grad():
        model.recall.state.weight.mul_(0.1)
    model.save_pretrained(run.model)
    return run
