"""Whether data limit training: tokens per second that a task prepares, and tokens per second that a training step takes.

    python benchmarks/loading.py
    python benchmarks/loading.py --tasks sudoku --width 128 --batch 64 --repeats 5 --json

A batch is made as the trainer makes it: rows are drawn, augmented and turned into inputs of the model. A step is forward,
backward and AdamW, compiled, in bf16 if the machine multiplies faster in it, with about the mean number of iterations of
training with at most 30.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from output import print_results
from setting import setting
from timing import in_turn, median_ratio

from loopscope import subjects
from loopscope.models import LoopedTransformerConfig, build_model
from loopscope.tasks import task_class
from loopscope.training.config import TrainingConfig
from loopscope.training.precision import precision_here
from loopscope.training.settings import complete_model
from loopscope.training.trainer import AUGMENT, batch_rows, generator_for, make_optimizer

TASKS = {
    "prefix-sums": {},
    "sudoku": {"source": "shipped", "augmentation": "digits"},
    "sudoku, symmetries": {"source": "shipped", "augmentation": "symmetries"},
    "chess": {"source": "shipped"},
}
FREE, GRADIENT = 15, 8
"""Approximate means of the paper's numbers of iterations without and with gradient."""


LOADS = 40
"""Number of batches in a round with one training step."""


@dataclass(frozen=True)
class Row:
    """One task.

    Attributes:
        task: name of the task.
        loading: tokens per second that are prepared, in the median round.
        training: tokens per second that a training step takes.
        ratio: loading over training, as the median of the rounds' ratios.
    """

    task: str
    loading: float
    training: float
    ratio: float


COLUMNS: dict[str, Callable[[Row], str]] = {
    "task": lambda row: row.task,
    "loading, tokens/s": lambda row: f"{row.loading:,.0f}",
    "training, tokens/s": lambda row: f"{row.training:,.0f}",
    "loading / training": lambda row: f"{row.ratio:,.0f}",
}


def measure(name: str, width: int, batch: int, repeats: int) -> Row:
    task = task_class(name.split(",")[0])(**TASKS[name])
    split, device = task.training_split(), subjects.device()

    def load(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = batch_rows(0, step, batch, len(split))
        problems, answers = task.augment(split.problems[rows], split.answers[rows], generator_for(0, AUGMENT, step))
        return task.inputs(problems.to(device)), answers.to(device)

    model = build_model(complete_model(task, LoopedTransformerConfig(width=width, heads=4))).to(device)
    model.compile_step()
    optimizer = make_optimizer(model, TrainingConfig())
    inputs, answers = load(0)

    def load_many() -> None:
        for step in range(LOADS):
            load(step)

    def train() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision_here("auto") == "bf16"):
            loss = task.loss(model(inputs, FREE, GRADIENT), answers)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    train()  # compiles
    many, one = in_turn([load_many, train], repeats)
    loads = [seconds / LOADS for seconds in many]
    tokens = batch * split.problems.shape[1]
    return Row(name, tokens / statistics.median(loads), tokens / statistics.median(one), median_ratio(one, loads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5, help=f"rounds of {LOADS} batches and one training step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = [measure(name, chosen.width, chosen.batch, chosen.repeats) for name in chosen.tasks]
    print_results(rows, COLUMNS, setting(width=chosen.width, batch=chosen.batch, repeats=chosen.repeats), chosen.json)


if __name__ == "__main__":
    main()
