"""The loops of the experiment, and their rows in the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.forecasts.families import FAMILIES, Family, Role
from experiments.forecasts.outcomes import HORIZON, Outcome, curve, outcome, running_on, unchecked
from experiments.forecasts.tasks import TASKS
from experiments.forecasts.training import Schedule, damped, trained
from loopscope import Forecast, Loop, forecast
from loopscope.errors import LoopscopeError
from loopscope.files import numbered_lines
from loopscope.forecasts import Outlook
from loopscope.schema import misfit

LEDGER = Path(__file__).parent / "results" / "ledger.jsonl"
SCHEDULES: tuple[Schedule, ...] = ("fixed", "sampled")
SEEDS = (0, 1, 2)
DAMPING = (0.3, 0.1, 0.03)
"""Fraction of each step that a damped loop takes, by seed."""
PROBLEMS = 128
PROBLEM_SEED = 1000
SOLVES = 0.75
"""Smallest accuracy after the trained iterations for a loop to count."""
RUNS = (60, 96)
"""Numbers of iterations of the rivals that simply run on. The second is a fifth of the horizon, the budget of a forecast."""
KEPT_POINTS = (1, 2, 4, 8, 15, 30, 60, 96, 150, 200, 250, 300, 350, 400, 440, 480)
"""Iterations whose accuracy the ledger holds."""


@dataclass(frozen=True)
class Training:
    """How one loop was trained."""

    family: str
    seed: int
    rate: float
    schedule: str


@dataclass(frozen=True)
class Row:
    """One loop with its forecast, its outcome and the forecasts of rivals.

    Args:
        training: how it was trained.
        damping: share of each step that it takes; None where it is undamped.
        role: what its family is for.
        solves: accuracy of the undamped loop after the trained iterations.
        outcome: its outcome.
        accuracy: accuracy after some of the iterations.
        outlook: outlook of the forecast: keeps, collapses or cannot tell.
        collapse: forecast iteration of the collapse.
        steps: number of true steps that the forecast cost.
        rounds: result of each round of the forecast.
        reason: why the forecast cannot tell, or what is not finite.
        unchecked: whether leaps without a check say that the loop keeps its answers.
        runs: whether running on says that the loop keeps its answers, by number of iterations.
        seconds: time of running to the horizon and of the forecast.
    """

    training: Training
    damping: float | None
    role: Role
    solves: float
    outcome: Outcome
    accuracy: dict[str, float]
    outlook: str
    collapse: float | None
    steps: int
    rounds: list[dict[str, Any]]
    reason: str
    unchecked: bool
    runs: dict[str, bool]
    seconds: dict[str, float]

    @property
    def counts(self) -> bool:
        """Whether the loop learned its task."""
        return self.solves >= SOLVES

    @property
    def key(self) -> tuple[Training, float | None]:
        """The key that identifies the loop."""
        return self.training, self.damping


def trainings(family: Family) -> Iterator[Training]:
    """Yield the training of each loop of a family."""
    for seed in SEEDS:
        for rate in family.rates:
            for schedule in SCHEDULES:
                yield Training(family.name, seed, rate, schedule)


def measure(family: Family, training: Training) -> list[Row]:
    """Train a loop, and return its row and the row of its damped variant."""
    schedule = next(one for one in SCHEDULES if one == training.schedule)
    module = trained(family, training.seed, training.rate, schedule)
    plain: Loop = module
    problems = TASKS[family.task].draw(PROBLEMS, torch.Generator().manual_seed(PROBLEM_SEED))
    solves = curve(plain, problems, family.iterations)[-1]
    share = DAMPING[SEEDS.index(training.seed)]
    loops: dict[float | None, Loop] = {None: plain, share: damped(module, share, family.iterations)}
    return [_row(family, training, damping, loop, solves) for damping, loop in loops.items()]


def _row(family: Family, training: Training, damping: float | None, loop: Loop, solves: float) -> Row:
    problems = TASKS[family.task].draw(PROBLEMS, torch.Generator().manual_seed(PROBLEM_SEED))
    began = time.perf_counter()
    accuracies = curve(loop, problems)
    seconds = time.perf_counter() - began
    try:
        said = forecast(loop, problems.inputs, problems.answers, family.iterations, horizon=HORIZON)
        says = unchecked(loop, problems, family.iterations)
    except LoopscopeError as error:  # a training that diverged leaves NaN, which no forecast accepts
        said, says = Forecast(Outlook.CANNOT_TELL, str(error), None, HORIZON, [], PROBLEMS, 0.0), False
    return Row(
        training,
        damping,
        family.role,
        solves,
        outcome(accuracies),
        {str(iteration): accuracies[iteration - 1] for iteration in KEPT_POINTS},
        said.outlook.value,
        said.collapse,
        said.steps,
        said.to_dict()["rounds"],
        said.reason,
        says,
        {str(iterations): running_on(accuracies, iterations) for iterations in RUNS},
        {"run": round(seconds, 4), "forecast": round(said.seconds, 4)},
    )


def read_ledger(path: Path = LEDGER) -> list[Row]:
    """Return the rows of a ledger, or none if there is no file.

    Raises:
        LoopscopeError: a line is not a row.
    """
    rows = []
    for number, line in numbered_lines(path) if path.is_file() else ():
        if (wrong := misfit(line, Row)) is not None:
            raise LoopscopeError(f"{path}, line {number}: {wrong}")
        training, found = Training(**line["training"]), Outcome(**line["outcome"])
        rows.append(Row(**{**line, "training": training, "outcome": found}))
    return rows


def fill(path: Path = LEDGER) -> Iterator[Row]:
    """Measure the loops that a ledger lacks, append their rows, and yield them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {row.training for row in read_ledger(path)}
    for family in FAMILIES:
        for training in trainings(family):
            if training in known:
                continue
            rows = measure(family, training)
            with path.open("a") as ledger:
                ledger.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
            yield from rows
