"""Training of a language model by the Trainer of transformers, as its users do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from experiments.language_models.models import Block, Dory, Input, Kind, untrained
from experiments.language_models.tasks import TASKS, Task

BATCH = 64
TEXTS = 20_000
"""Number of texts that a model is trained on, some of them more than once."""
WARM_UP = 20
"""Number of updates until the learning rate is reached. It then falls linearly to 0."""
UPDATES = {"depth": 300, "sorting": 400}
"""Number of updates, by task."""
FIXED = 4
"""Loops of every update under the fixed schedule."""
SAMPLED = (2, 6)
"""Fewest and most loops of an update under the sampled schedule."""
IGNORED = -100
"""Label of a character that the loss leaves out."""

Schedule = Literal["fixed", "sampled"]
"""Whether every update runs the same number of loops, or one drawn uniformly."""
SCHEDULES: tuple[Schedule, ...] = ("fixed", "sampled")
RATES = (0.001, 0.003, 0.01)
"""Learning rates of AdamW."""


@dataclass(frozen=True)
class Training:
    """How one model is trained.

    Args:
        task: name of the task.
        model: the architecture.
        input: whether the input enters every loop.
        schedule: how the number of loops of an update is chosen.
        rate: learning rate.
        seed: seed of weights, texts and numbers of loops.
    """

    task: str
    model: Kind
    input: Input
    schedule: Schedule
    rate: float
    seed: int

    @property
    def loops(self) -> int:
        """Largest number of loops in training."""
        return FIXED if self.schedule == "fixed" else SAMPLED[1]

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.task}-{self.model}-{self.input}-{self.schedule}-{self.rate:g}-{self.seed}"


class Texts(Dataset[dict[str, Tensor]]):
    """Texts with labels that leave out the prompt."""

    def __init__(self, task: Task, count: int, generator: torch.Generator) -> None:
        self.tokens = task.draw(count, generator)
        self.labels = self.tokens.clone()
        self.labels[:, : task.asked] = IGNORED

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[place], "labels": self.labels[place]}


class Loops(TrainerCallback):
    """Sets the number of loops before each update."""

    def __init__(self, counts: Iterator[int]) -> None:
        self.counts = counts

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Set the number of loops of the next update."""
        model.set_loops(next(self.counts))


def _counts(schedule: Schedule, generator: torch.Generator) -> Iterator[int]:
    least, most = SAMPLED
    while True:
        yield FIXED if schedule == "fixed" else int(torch.randint(least, most + 1, (), generator=generator))


def trained(training: Training, updates: int | None = None) -> tuple[Dory | Block, float]:
    """Train a model, and return it with the loss of its training.

    Args:
        training: how it is trained.
        updates: number of updates; that of the task if None.
    """
    set_seed(training.seed)
    task, model = TASKS[training.task], untrained(training.model, training.input)
    generator = torch.Generator().manual_seed(training.seed)
    texts = Texts(task, TEXTS, generator)
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=UPDATES[training.task] if updates is None else updates,
            per_device_train_batch_size=BATCH,
            learning_rate=training.rate,
            lr_scheduler_type="linear",
            warmup_steps=WARM_UP,
            max_grad_norm=1.0,
            seed=training.seed,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model, arguments, train_dataset=texts, callbacks=[Loops(_counts(training.schedule, generator))]
        )
        trainer.remove_callback(PrinterCallback)
        loss = trainer.train().training_loss
    model.eval().requires_grad_(False)
    return model, float(loss)
