"""The ledger: one compact row per run of a study, with its accuracy, its weights and its examination."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.mending.runs import read_rows
from experiments.paper.iterates import LastIterates, last_iterates
from loopscope.errors import LoopscopeError
from loopscope.files import append_line, numbered_lines
from loopscope.loop import Loop
from loopscope.models.recall import matrix_radius, recall_weights
from loopscope.reports.study.table import at_fixed_points, median_radius
from loopscope.stability import Verdict
from loopscope.studies import Record, StudyFolder
from loopscope.subjects import evaluation_splits, trained
from loopscope.training.settings import RunSettings

LEDGER = Path(__file__).parent / "results" / "ledger.jsonl"
POINTS = (1, 2, 3, 4, 6, 8, 11, 16, 22, 30, 40, 60, 90, 120, 180, 250, 350, 500)
"""Iterations whose accuracy the ledger holds."""
LONG = "500"
"""The number of iterations at which the paper reports accuracy."""
FOLLOWED = 16
"""Number of problems whose states are followed to the last iteration."""
LOGGED = 50
"""Largest number of training steps at which the ledger holds the radius of W_state."""


@dataclass(frozen=True)
class Band:
    """Accuracy on the problems of a split within a range of difficulty.

    Args:
        lowest: smallest difficulty: guesses of a sudoku, rating of a chess puzzle.
        highest: largest difficulty.
        examples: number of problems.
        accuracy: fraction of whole answers that are right, by number of iterations.
    """

    lowest: float
    highest: float
    examples: int
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Run:
    """One trained model.

    Args:
        study: name of its study.
        run: name of the run in it.
        settings: all settings of the run.
        seconds: time of each stage.
        machines: the machines that trained it.
        examples: number of problems of each split.
        accuracy: fraction of whole answers that are right, by split and by number of iterations.
        best: largest of these fractions over all iterations, by split.
        first_within_1_percent: first iteration whose accuracy is within 0.01 of the best, by split.
        bands: accuracy by difficulty, by split; empty for a split without difficulties.
        norm_ratio: median norm of the last iterate over that of the first, on ``FOLLOWED`` of the hardest problems.
        cosine: median cosine of the last two iterates, on the same problems.
        verdict: the examination's verdict, by the thresholds of its day (see ``judged``).
        arrived: fraction of the examined orbits that arrive at a fixed point.
        radius: median spectral radius of the Jacobian at the last state.
        at_fixed_point: whether all of these states had arrived.
        state_radius: spectral radius of W_state after training; None without recall.
        recall_ratio: ||W_state|| / ||W_input||; None without recall.
        training: pairs of a training step and the spectral radius of W_state there.
        fraction_arrived: fraction arrived that the verdict rests on, which leaves out undecided orbits; None if the row is older.
    """

    study: str
    run: str
    settings: dict[str, Any]
    seconds: dict[str, float]
    machines: list[str]
    examples: dict[str, int]
    accuracy: dict[str, dict[str, float]]
    best: dict[str, float]
    first_within_1_percent: dict[str, int]
    bands: dict[str, list[Band]]
    norm_ratio: float | None
    cosine: float | None
    verdict: str | None
    arrived: float | None
    radius: float | None
    at_fixed_point: bool
    state_radius: float | None
    recall_ratio: float | None
    training: list[tuple[int, float]]
    fraction_arrived: float | None = None

    @property
    def choice(self) -> tuple[str, str]:
        """Its recall and its normalization."""
        model = self.settings["model"]
        return model["recall"], model["norm"]

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return int(self.settings["training"]["seed"])

    @property
    def learning_rate(self) -> float:
        """The learning rate of its training."""
        return float(self.settings["training"]["learning_rate"])

    @property
    def trained_iterations(self) -> int:
        """The largest number of iterations in training."""
        return int(self.settings["training"]["max_iterations"])

    @property
    def judged(self) -> str | None:
        """The verdict by the thresholds in use; None if the row does not tell.

        Rows without ``fraction_arrived`` were judged by a stricter threshold for it, 0.9 instead of 0.5. Where some orbits arrive and
        they were said not to, the verdict may be another today.
        """
        failed = self.verdict in (Verdict.UNSTABLE.value, Verdict.UNSETTLED.value)
        return None if self.fraction_arrived is None and failed and self.arrived != 0 else self.verdict


def _at_points(curve: Sequence[float]) -> dict[str, float]:
    return {str(point): curve[point - 1] for point in POINTS if point <= len(curve)}


def _bands(curve: dict[str, Any]) -> list[Band]:
    return [
        Band(
            one["lowest"],
            one["highest"],
            one["examples"],
            dict(zip(map(str, one["iterations"]), one["answer_accuracy"], strict=True)),
        )
        for one in curve.get("by_difficulty", [])
    ]


def _iterates(settings: RunSettings, model: Loop) -> LastIterates:
    *_, hardest = evaluation_splits(settings).values()
    return last_iterates(
        model, settings.data.inputs(hardest.problems[:FOLLOWED]), settings.evaluation.iterations, settings.training.seed
    )


def _thinned(rows: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    logged = [(row["step"], row["state_radius"]) for row in rows if "state_radius" in row]
    every = max(1, -(-len(logged) // LOGGED))
    return [(step, float(f"{radius:.5g}")) for step, radius in logged[every - 1 :: every]]


def run_of(folder: StudyFolder, record: Record) -> Run:
    """Return the row of a finished run.

    Args:
        folder: the study's folder, which holds the run's model and metrics.
        record: the run's record.
    """
    place = folder.run(record.run)
    settings, model = trained(place)
    weights, iterates = recall_weights(model), _iterates(settings, model)
    exam, evaluation = record.exam, record.evaluation or {}
    arrived = exam.reachability.arrived if exam is not None else []
    return Run(
        study=folder.path.name,
        run=record.run,
        settings=record.settings,
        seconds=record.seconds,
        machines=record.machines,
        examples={split: curve["examples"] for split, curve in evaluation.items()},
        accuracy={split: _at_points(curve["answer_accuracy"]) for split, curve in evaluation.items()},
        best={split: curve["best"] for split, curve in evaluation.items()},
        first_within_1_percent={split: curve["first_within_1_percent"] for split, curve in evaluation.items()},
        bands={split: _bands(curve) for split, curve in evaluation.items()},
        norm_ratio=iterates.norm_ratio,
        cosine=iterates.cosine,
        verdict=None if exam is None else exam.verdict.value,
        arrived=sum(arrived) / len(arrived) if arrived else None,
        radius=median_radius(exam),
        at_fixed_point=at_fixed_points(exam),
        state_radius=None if weights is None else matrix_radius(weights[0]),
        recall_ratio=None if weights is None else float(weights[0].norm() / weights[1].norm()),
        training=_thinned([row for _, row in numbered_lines(place.metrics)]),
        fraction_arrived=None if exam is None else exam.axes[0].numbers["fraction arrived"],
    )


def read_runs(path: Path = LEDGER) -> list[Run]:
    """Return the latest row of each run of a ledger, in order of first appearance.

    Raises:
        LoopscopeError: there is no ledger, or a line is not a row.
    """
    if not path.is_file():
        raise LoopscopeError(f"there is no ledger {path}: collect a study first")
    return list({(run.study, run.run): run for run in read_rows(path, Run, "a run")}.values())


def by_study(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs by study, in order of first appearance."""
    studies: dict[str, list[Run]] = {}
    for run in runs:
        studies.setdefault(run.study, []).append(run)
    return studies


def collect(folder: StudyFolder, into: Path = LEDGER) -> list[Run]:
    """Append the finished runs of a study that a ledger lacks, and return these.

    Raises:
        LoopscopeError: the folder holds no finished run.
    """
    finished = [record for record in folder.ledger.records().values() if record.status == "finished"]
    if not finished:
        raise LoopscopeError(f"{folder.path} holds no finished run: give the folder of a study")
    into.parent.mkdir(parents=True, exist_ok=True)
    known = {run.run for run in read_runs(into) if run.study == folder.path.name} if into.is_file() else set()
    new = [run_of(folder, record) for record in finished if record.run not in known]
    for run in new:
        append_line(into, asdict(run))
    return new
