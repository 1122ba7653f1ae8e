"""Training one run of the experiment, and what it is worth at 500 iterations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from experiments.mending.cells import BASELINE, STEPS, TEST_TIME, TRAINED, Cell, Option, settings_of
from loopscope import Loop, damped
from loopscope.errors import LoopscopeError
from loopscope.evaluation import EvaluationConfig, evaluate_split, rule_of_split
from loopscope.files import numbered_lines
from loopscope.models import load_model
from loopscope.schema import from_plain
from loopscope.stability.examine import examine
from loopscope.tasks import Split, Task
from loopscope.training.run_folder import open_run
from loopscope.training.settings import RunSettings
from loopscope.training.trainer import train
from loopscope.training.watch.watch import Watch

T = TypeVar("T")

LEDGER = Path(__file__).parent / "results" / "runs.jsonl"
HORIZON = 500
LAST = 16
"""Last iterations over which the accuracy that is left is the smallest."""
KEPT = 0.9
"""Fraction of an accuracy that must be left for it to count as kept."""
LEARNED = 0.75
"""Smallest accuracy after the trained iterations of a run that has learned its task."""
POINTS = (1, 2, 4, 6, 12, 24, 60, 120, 250, 360, 500)
"""Iterations whose accuracy the ledger holds."""
EXAMINED = 8
"""Problems on which the orbits of a baseline are classified."""
EXAMINED_SEED = 1
"""Seed of the baselines of a comparison that are examined."""
COMPARISONS = ("comparison", "second comparison")
"""Stages whose runs are counted."""


@dataclass(frozen=True)
class Run:
    """One trained model, or one that was damped after training.

    Args:
        stage: screening, pilot, comparison or second comparison.
        cell: its cell.
        option: name of what was done against collapse.
        strength: its strength; None if it has none.
        seed: seed of its training.
        easy: accuracy after the trained iterations, on problems of validation.
        best: best accuracy over all iterations.
        left: smallest accuracy over the last iterations.
        accuracy: accuracy after some of the iterations.
        seconds: CPU time of training.
        orbits: number of orbits by label, for baselines of the comparison with the first seed.
        diverged: why training failed; empty if it did not.
        verdict: verdict of the examination, where orbits are classified.
    """

    stage: str
    cell: Cell
    option: str
    strength: float | None
    seed: int
    easy: float
    best: float
    left: float
    accuracy: dict[str, float]
    seconds: float
    orbits: dict[str, int]
    diverged: str = ""
    verdict: str = ""

    @property
    def key(self) -> tuple[str, Cell, str, float | None, int]:
        """The key that identifies the run."""
        return self.stage, self.cell, self.option, self.strength, self.seed

    @property
    def loses(self) -> bool:
        """Whether it has learned its task, and loses the accuracy that it has after the trained iterations."""
        return self.easy >= LEARNED and self.left < KEPT * self.easy


def trained(settings: RunSettings, make_watch: Callable[[Any], Watch] | None = None) -> tuple[Loop, float]:
    """Train a model as ``loopscope train`` does, and return it with the CPU time that training took, in seconds."""
    with TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", settings, resume=False)
        began = time.process_time()
        train(settings, run, make_watch=make_watch)
        seconds = time.process_time() - began
        return load_model(run.path), seconds


def validation(task: Task) -> Split:
    """Return the easy problems that no run is trained on."""
    return next(iter(task.evaluation_splits().values()))


def curve(loop: Loop, task: Task, split: Split, iterations: int = HORIZON) -> list[float]:
    """Return the accuracy of whole answers after each iteration."""
    config = EvaluationConfig(iterations=iterations, examples=len(split), batch_size=len(split))
    return evaluate_split(loop, task, split, config).answer_accuracy


def left(accuracies: Sequence[float]) -> float:
    """Return the accuracy that is left: the smallest over the last iterations.

    Example:
        >>> left([0.9] * 90 + [0.5, 0.7] * 5)
        0.5
    """
    return min(accuracies[-LAST:])


def examined(loop: Loop, task: Task, split: Split) -> tuple[dict[str, int], str]:
    """Return how many orbits of easy problems carry each label in an examination, and its verdict."""
    some = split.first(EXAMINED)
    exam = examine(loop, task.inputs(some.problems), rule_of_split(task, some), TRAINED, "quick", iterations=HORIZON)
    return ({} if exam.reachability is None else dict(exam.reachability.counts)), exam.verdict.value


def measured(stage: str, cell: Cell, option: Option, seed: int, late: Sequence[float], steps: int = STEPS) -> list[Run]:
    """Train one run and return its row, and the rows of its model damped after training.

    Args:
        stage: its stage.
        cell: its cell.
        option: what is done against collapse.
        seed: seed of its training.
        late: damping at test time, one row each.
        steps: number of training steps.
    """
    settings = settings_of(cell, option, seed, steps)
    try:
        loop, seconds = trained(settings)
    except LoopscopeError as error:
        return [Run(stage, cell, option.name, option.strength, seed, 0.0, 0.0, 0.0, {}, 0.0, {}, str(error))]
    split, rows = validation(settings.data), []
    orbits: dict[str, int]
    for name, strength, judged in (
        (option.name, option.strength, loop),
        *((TEST_TIME, damping, damped(loop, damping)) for damping in late),
    ):
        accuracies = curve(judged, settings.data, split)
        orbits, verdict = {}, ""
        if name == BASELINE and stage in COMPARISONS and seed == EXAMINED_SEED:
            orbits, verdict = examined(loop, settings.data, split)
        rows.append(
            Run(
                stage,
                cell,
                name,
                strength,
                seed,
                accuracies[TRAINED - 1],
                max(accuracies),
                left(accuracies),
                {str(point): accuracies[point - 1] for point in POINTS},
                round(seconds, 2),
                orbits,
                verdict=verdict,
            )
        )
    return rows


def read_runs(path: Path = LEDGER) -> list[Run]:
    """Return the rows of a ledger, or none if there is no file.

    Raises:
        LoopscopeError: a line is not a row.
    """
    return read_rows(path, Run, "a run")


def read_rows(path: Path, kind: type[T], name: str) -> list[T]:
    """Return the rows of a file as values of a type, or none if there is no file.

    Args:
        path: the file, with a row as JSON on each line.
        kind: the type.
        name: what a row is, for the error.

    Raises:
        LoopscopeError: a line is not a row.
    """
    rows = []
    for number, line in numbered_lines(path) if path.is_file() else ():
        try:
            rows.append(from_plain(line, kind))
        except LoopscopeError as error:
            raise LoopscopeError(f"{path}, line {number} is not {name} ({error}): remove that line") from error
    return rows
