"""The models of the experiment: their trainings, their rows in the ledger, and their forecasts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from experiments.language_models.models import INPUTS, Block, Dory, Input, Kind, untrained
from experiments.language_models.outcomes import HORIZONS, curve
from experiments.language_models.tasks import TASKS
from experiments.language_models.training import RATES, SCHEDULES, Training, trained
from loopscope import Loop, forecast
from loopscope.errors import LoopscopeError
from loopscope.files import append_line, numbered_lines
from loopscope.schema import from_plain, to_plain

RESULTS = Path(__file__).parent / "results"
"""Folder of both ledgers."""
MODELS = Path("runs") / "language-models"
"""Folder of the trained models, relative to the root of the repository. It is not committed."""
TEXTS = 128
"""Texts on which accuracy and forecasts are measured."""
TEXT_SEED = 1000
LEARNED = 0.9
"""Smallest fraction of right characters, after the most loops of training, for a model to count."""

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A trained model.

    Args:
        training: how it was trained.
        loss: mean loss over its training.
        seconds: CPU time of its training.
        accuracy: fraction of right characters after each loop, from the first on.
    """

    training: Training
    loss: float
    seconds: float
    accuracy: list[float]

    @property
    def counts(self) -> bool:
        """Whether the model learned its task."""
        return self.accuracy[self.training.loops - 1] >= LEARNED


@dataclass(frozen=True)
class Forecasted:
    """A forecast of a trained model.

    Args:
        training: how the model was trained.
        horizon: the number of loops that the forecast is about.
        outlook: keeps, collapses or cannot tell.
        collapse: loop from which answers are lost, according to the forecast.
        steps: evaluations of the loop that the forecast cost.
        seconds: time that it took.
        reason: why it cannot tell, or what is not finite.
    """

    training: Training
    horizon: int
    outlook: str
    collapse: float | None
    steps: int
    seconds: float
    reason: str


@dataclass(frozen=True)
class Population:
    """Models of every combination of some settings, with both tasks and both schedules.

    Args:
        kinds: architectures.
        inputs: how the input enters.
        rates: learning rates.
        seed: seed of weights, texts and numbers of loops.
    """

    kinds: tuple[Kind, ...]
    inputs: tuple[Input, ...]
    rates: tuple[float, ...]
    seed: int

    def trainings(self) -> Iterator[Training]:
        """Yield the training of every model, those with the same learning rate together."""
        for rate, task, kind, enters, schedule in product(self.rates, TASKS, self.kinds, self.inputs, SCHEDULES):
            yield Training(task, kind, enters, schedule, rate, self.seed)


POPULATIONS = {
    "first": Population(("dory", "block"), INPUTS, RATES, seed=0),
    "second": Population(("block-pre", "block-peri", "block-sandwich", "block-gru"), ("every",), RATES[1:], seed=1),
}
"""The populations, by the test that they are for."""


def trainings() -> Iterator[Training]:
    """Yield the training of every model."""
    for one in POPULATIONS.values():
        yield from one.trainings()


def measured_texts(training: Training) -> Int[Tensor, "batch tokens"]:
    """Return the texts that a model is measured on."""
    return TASKS[training.task].draw(TEXTS, torch.Generator().manual_seed(TEXT_SEED))


def prompts_and_answers(training: Training) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch answered"]]:
    """Return the texts that a model is measured on, and the answers in them."""
    texts = measured_texts(training)
    return texts, TASKS[training.task].answers(texts)


def loop_of(training: Training, model: Dory | Block) -> Loop:
    """Return a model as a loop that is read where it predicts a character of the answer."""
    return model.loop(measured_texts(training)[:4], TASKS[training.task].positions)


def train_all(ledger: Path = RESULTS / "models.jsonl", folder: Path = MODELS) -> Iterator[Row]:
    """Train the models that a ledger or the folder lacks, save them, append their rows, and yield these."""
    known = {row.training for row in read_rows(ledger)}
    folder.mkdir(parents=True, exist_ok=True)
    for training in trainings():
        place = _place(folder, training)
        if training in known and place.is_file():
            continue
        began = time.process_time()
        model, loss = trained(training)
        seconds = time.process_time() - began
        row = Row(training, loss, round(seconds, 1), curve(loop_of(training, model), *prompts_and_answers(training)))
        save_file(model.state_dict(), place)
        if training not in known:
            append_line(ledger, to_plain(row))
        yield row


def load(training: Training, folder: Path = MODELS) -> Dory | Block:
    """Return a trained model.

    Raises:
        LoopscopeError: it has not been trained.
    """
    place = _place(folder, training)
    if not place.is_file():
        raise LoopscopeError(f"{place} is absent: train the models with python -m experiments.language_models train")
    model = untrained(training.model, training.input)
    model.load_state_dict(load_file(place))
    model.set_loops(training.loops)
    return model.eval().requires_grad_(False)


def forecast_all(
    ledger: Path = RESULTS / "models.jsonl", forecasts: Path = RESULTS / "forecasts.jsonl", folder: Path = MODELS
) -> Iterator[Forecasted]:
    """Forecast every model that counts at every horizon, write a new file of forecasts, and yield them."""
    forecasts.unlink(missing_ok=True)
    for row in read_rows(ledger):
        if not row.counts:
            continue
        texts, answers = prompts_and_answers(row.training)
        loop = loop_of(row.training, load(row.training, folder))
        for horizon in HORIZONS:
            said = forecast(loop, {"input_ids": texts}, answers, row.training.loops, horizon=horizon)
            made = Forecasted(
                row.training,
                horizon,
                said.outlook.value,
                said.collapse,
                said.steps,
                round(said.seconds, 3),
                said.reason,
            )
            append_line(forecasts, to_plain(made))
            yield made


def _place(folder: Path, training: Training) -> Path:
    return folder / f"{training.name}.safetensors"


def read_rows(ledger: Path = RESULTS / "models.jsonl") -> list[Row]:
    """Return the rows of a ledger of models, or none if there is no file.

    Raises:
        LoopscopeError: a line is not a row.
    """
    return _read(ledger, Row)


def read_forecasts(forecasts: Path = RESULTS / "forecasts.jsonl") -> list[Forecasted]:
    """Return the forecasts in a file, or none if there is no file.

    Raises:
        LoopscopeError: a line is not a forecast.
    """
    return _read(forecasts, Forecasted)


def _read(path: Path, kind: type[T]) -> list[T]:
    lines = numbered_lines(path) if path.is_file() else []
    return [from_plain(line, kind, f"{path}, line {number}") for number, line in lines]
