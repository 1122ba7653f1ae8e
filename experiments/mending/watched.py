"""Runs with neighbouring learning rates that are watched while they train, and whether they collapse afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from experiments.mending.cells import PLAIN, RATES, STEPS, TRAINED, Cell, cells, settings_of
from experiments.mending.runs import KEPT, LEARNED, POINTS, Run, curve, left, read_rows, validation
from experiments.mending.stages import SCREENING_SEEDS
from loopscope import Loop, Watch
from loopscope.contexts import undisturbed
from loopscope.errors import LoopscopeError
from loopscope.evaluation import rule_of_split
from loopscope.files import append_line
from loopscope.models import load_model
from loopscope.tasks import Split, answers_of
from loopscope.training.run_folder import open_run
from loopscope.training.trainer import train
from loopscope.training.watch.of_run import watched_until_now
from loopscope.training.watch.watch import PATIENCE

LEDGER = Path(__file__).parent / "results" / "watched.jsonl"
SEED = 200
CHOICES = 3
"""Number of choices of recall and normalization."""
NEIGHBOURS = (0.002, 0.0025, 0.003, 0.0036, 0.0043, 0.0052, 0.0062)
"""Learning rates of each choice."""
EVERY = 50
"""Training steps between measurements."""
FAR = 60 * TRAINED
"""Iterations at which it is decided whether a run collapses."""
WATCHED = 16
"""Problems of validation that the watch and its rivals see. The others decide."""
SOON = 0.75
"""Share of training by which a flag has risen in time."""


@dataclass(frozen=True)
class Moment:
    """What the watch and its rival say at one step of training.

    Args:
        step: the step.
        accuracy: accuracy after the trained iterations, on the problems of the watch.
        outlooks: the outlook of the forecast by number of iterations.
        flagged: whether the flag of the watch is up.
        seconds: CPU time of the measurement.
        kept: accuracy that is left at the last iterations over the best, by running on; None if nothing is right.
        rival_seconds: CPU time of running on.
    """

    step: int
    accuracy: float | None
    outlooks: dict[str, str]
    flagged: bool
    seconds: float
    kept: float | None
    rival_seconds: float

    @property
    def rival_collapses(self) -> bool:
        """Whether running on shows a collapse."""
        return self.kept is not None and self.kept < KEPT


@dataclass(frozen=True)
class Watched:
    """One run.

    Args:
        cell: its cell.
        seed: seed of its training.
        easy: accuracy after the trained iterations, on the problems that the watch does not see.
        best: best accuracy over all iterations, on the same problems.
        left: smallest accuracy over the last iterations, on the same problems.
        accuracy: accuracy after some of the iterations.
        seconds: CPU time of training, without measurements.
        moments: what the watch and its rival said.
    """

    cell: Cell
    seed: int
    easy: float
    best: float
    left: float
    accuracy: dict[str, float]
    seconds: float
    moments: list[Moment]

    @property
    def counts(self) -> bool:
        """Whether it has learned its task."""
        return self.easy >= LEARNED

    @property
    def collapses(self) -> bool:
        """Whether it loses its accuracy beyond training."""
        return self.left < KEPT * self.best

    @property
    def flags(self) -> list[bool]:
        """The flag of the watch at each measurement."""
        return [moment.flagged for moment in self.moments]

    @property
    def rival_flags(self) -> list[bool]:
        """The flag that running on would raise at each measurement, with the same patience."""
        said = [moment.rival_collapses for moment in self.moments]
        return [place + 1 >= PATIENCE and all(said[place + 1 - PATIENCE : place + 1]) for place in range(len(said))]

    def share(self, place: int) -> float:
        """Return the share of training that was done at a measurement."""
        return self.moments[place].step / self.moments[-1].step


def first_rise(flags: Sequence[bool]) -> int | None:
    """Return the place at which a flag is up for the first time; None if it never is."""
    return next((place for place, up in enumerate(flags) if up), None)


def final_rise(flags: Sequence[bool]) -> int | None:
    """Return the place from which on a flag is up to the end; None if it is down at the end.

    Example:
        >>> final_rise([False, True, False, True, True])
        3
    """
    if not flags or not flags[-1]:
        return None
    return max((place + 1 for place, up in enumerate(flags) if not up), default=0)


def choices(rows: Sequence[Run]) -> list[tuple[str, str]]:
    """Return the choices of recall and normalization that are watched.

    First those whose rates disagreed in the screening on whether accuracy is lost, then the others, each by easy accuracy.
    """
    screened = {row.cell: row for row in rows if row.stage == "screening" and row.seed == SCREENING_SEEDS[0]}
    pairs = dict.fromkeys((cell.recall, cell.norm) for cell in cells())
    both = {pair: [screened[Cell(*pair, rate)] for rate in RATES if Cell(*pair, rate) in screened] for pair in pairs}
    if any(len(found) < len(RATES) for found in both.values()):
        raise LoopscopeError("the screening is not complete: run it first")
    known = [pair for pair in pairs if all(row.easy >= LEARNED for row in both[pair])]
    known.sort(key=lambda pair: -mean(row.easy for row in both[pair]))
    mixed = [pair for pair in known if len({row.loses for row in both[pair]}) > 1]
    return [*mixed, *(pair for pair in known if pair not in mixed)][:CHOICES]


def watched(cell: Cell, seed: int = SEED, steps: int = STEPS, every: int = EVERY) -> Watched:
    """Train one run under a watch, with the rival beside it at the same steps.

    Args:
        cell: its cell.
        seed: seed of its training.
        steps: number of training steps.
        every: steps between measurements.
    """
    settings = settings_of(cell, PLAIN, seed, steps)
    task, split = settings.data, validation(settings.data)
    seen, unseen = split.first(WATCHED), Split(split.problems[WATCHED:], split.answers[WATCHED:])
    model: list[Loop] = []
    rival: dict[int, tuple[float | None, float]] = {}

    def make_watch(loop: Loop) -> Watch:
        model.append(loop)
        return Watch(
            loop,
            task.inputs(seen.problems),
            rule_of_split(task, seen),
            every,
            trained_iterations=TRAINED,
            on_collapse=lambda record: None,
            answers=answers_of(task),
            file=run.watch,
            clock=time.process_time,
        )

    def run_on(done: int, loss: float) -> None:
        if done % every == 0:
            began = time.process_time()
            with undisturbed(model[0]):
                found = curve(model[0], task, seen, FAR)
            kept = left(found) / max(found) if max(found) else None
            rival[done] = kept, time.process_time() - began

    with TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", settings, resume=False)
        began = time.process_time()
        train(settings, run, on_step=run_on, make_watch=make_watch)
        seconds = time.process_time() - began
        records = watched_until_now(run)
        accuracies = curve(load_model(run.path), task, unseen, FAR)
    moments = [
        Moment(
            record.step,
            record.accuracy,
            {str(one.iterations): one.outlook.value for one in record.forecasts},
            record.flagged,
            round(record.seconds, 3),
            rival[record.step][0],
            round(rival[record.step][1], 3),
        )
        for record in records
    ]
    spent = sum(moment.seconds + moment.rival_seconds for moment in moments)
    return Watched(
        cell,
        seed,
        accuracies[TRAINED - 1],
        max(accuracies),
        left(accuracies),
        {str(point): accuracies[point - 1] for point in POINTS if point <= FAR},
        round(seconds - spent, 2),
        moments,
    )


def read_watched(path: Path = LEDGER) -> list[Watched]:
    """Return the rows of a ledger, or none if there is no file.

    Raises:
        LoopscopeError: a line is not a row.
    """
    return read_rows(path, Watched, "a watched run")


def fill_watched(screened: Sequence[Run], path: Path = LEDGER) -> Iterator[Watched]:
    """Do the watched runs that a ledger lacks, append their rows, and yield them.

    Args:
        screened: the runs of the screening.
        path: the ledger.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {(row.cell, row.seed) for row in read_watched(path)}
    for recall, norm in choices(screened):
        for rate in NEIGHBOURS:
            if (Cell(recall, norm, rate), SEED) in known:
                continue
            row = watched(Cell(recall, norm, rate))
            append_line(path, asdict(row))
            yield row
