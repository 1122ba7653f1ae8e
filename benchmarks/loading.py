"""Whether data ever limit training: tokens a second that a task makes ready, against those that a training step takes.

    python benchmarks/loading.py
    python benchmarks/loading.py --tasks sudoku --width 128 --batch 64 --repeats 200

A batch is made as the trainer makes it: rows drawn, augmented, turned into what the model reads. A step is forward, backward
and AdamW, compiled and in bf16, at about the mean number of iterations of training with at most 30.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from loopscope.models import LoopedTransformerConfig, build_model
from loopscope.tasks import task_class
from loopscope.training.config import TrainingConfig
from loopscope.training.trainer import AUGMENT, batch_rows, generator_for, make_optimizer

TASKS = {
    "prefix-sums": {},
    "sudoku": {"source": "shipped", "augmentation": "digits"},
    "sudoku, symmetries": {"source": "shipped", "augmentation": "symmetries"},
    "chess": {"source": "shipped"},
}
FREE, GRADIENT = 15, 8
"""About the means of the paper's counts of iterations without and with gradient."""


def seconds(work: Callable[[int], object], repeats: int) -> float:
    """Return the median seconds of a call, after one that does not count."""
    work(0)
    times = []
    for number in range(repeats):
        began = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(name: str, width: int, batch: int, repeats: int) -> tuple[float, float]:
    """Return tokens a second of loading and of training."""
    task = task_class(name.split(",")[0])(**TASKS[name])
    split = task.training_split()

    def load(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = batch_rows(0, step, batch, len(split))
        problems, answers = task.augment(split.problems[rows], split.answers[rows], generator_for(0, AUGMENT, step))
        return task.inputs(problems), answers

    model = build_model(task.complete(LoopedTransformerConfig(width=width, heads=4)))
    model.compile_step()
    optimizer = make_optimizer(model, TrainingConfig())
    inputs, answers = load(0)

    def train(step: int) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(model(inputs, FREE, GRADIENT), answers)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    tokens = batch * split.problems.shape[1]
    return tokens / seconds(load, repeats), tokens / seconds(train, max(1, repeats // 40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    table = Table(title=f"tokens a second: width {chosen.width}, batch {chosen.batch}, {chosen.threads} threads")
    for column in ("task", "loading", "training", "loading / training"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name in chosen.tasks:
        loading, training = measure(name, chosen.width, chosen.batch, chosen.repeats)
        table.add_row(name, f"{loading:,.0f}", f"{training:,.0f}", f"{loading / training:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
