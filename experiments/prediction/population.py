"""A population: the runs of many studies as compact rows of one file that can be committed.

The ledger of a study keeps whole examinations, 150 kB per run. A row keeps the numbers from which forecasts and outcomes are
computed, in a few kB.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.prediction.measurements import Measurements
from loopscope.errors import LoopscopeError
from loopscope.files import make_folder, numbered_lines, write_text
from loopscope.schema import misfit, to_plain
from loopscope.stability import Examination
from loopscope.stability.results import middle
from loopscope.studies import Record, StudyFolder

LEDGER = "ledger.jsonl"
"""The file of a population in its folder."""
COLLECT = "python -m experiments.prediction collect"
"""The command that writes it."""
ALL_UP_TO = 32
"""Every point of a curve is kept up to this iteration."""
LATER_POINTS = 60
"""Number of later points that are kept, evenly spaced on a log scale: up to 500 iterations, each within 5% of the next."""
NEEDED: dict[str, Any] = {
    "task": str,
    "model.recall": str,
    "model.norm": str,
    "training.max_iterations": int,
    "training.learning_rate": float,
}
"""Settings that every row has, with their types."""
DIGITS = 5
"""Significant digits of the numbers that are kept."""
KEYS = {"examination": "examined", "prediction_mode": "forecast"}
"""Fields of a row that have another name in the file, which keeps its first names."""


@dataclass(frozen=True)
class ThinCurve:
    """Accuracy on one split at some iterations, from 1 to the last.

    Args:
        examples: number of examples.
        iterations: the iterations whose accuracy is kept.
        accuracy: fraction of whole answers that are right at these iterations.
        best: largest accuracy over all iterations.
        best_iteration: first iteration that reaches it.
        last: accuracy at the last iteration.
        solved_then_broken: fraction of examples that are right at some iteration and wrong at the last.
    """

    examples: int
    iterations: list[int]
    accuracy: list[float]
    best: float
    best_iteration: int
    last: float
    solved_then_broken: float


@dataclass(frozen=True)
class Member:
    """One model of a population.

    Args:
        study: study that trained the model.
        run: name of the run in that study.
        status: finished or failed.
        settings: all settings of the run.
        seconds: time of each stage.
        error: why the run failed, in one line.
        curves: accuracy by split, the easy split first and the hardest last.
        examination: numbers of the examination over all iterations (see ``numbers_of``).
        prediction_mode: numbers of the examination in prediction mode.
        signals: value and seconds of each signal, by name (see `experiments.prediction.signals`).
        machines: the machines that the model was trained on, each once. Empty if unknown.
    """

    study: str
    run: str
    status: str
    settings: dict[str, Any]
    seconds: dict[str, float]
    error: str | None
    curves: dict[str, ThinCurve]
    examination: dict[str, Any]
    prediction_mode: dict[str, Any]
    signals: dict[str, dict[str, float | None]]
    machines: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.settings["task"])

    @property
    def looped(self) -> bool:
        """Whether the model is looped, as opposed to a baseline of fixed depth."""
        return bool(self.settings["model"].get("architecture", "looped") == "looped")

    @property
    def recall(self) -> str:
        """The model's recall."""
        return str(self.settings["model"]["recall"])

    @property
    def norm(self) -> str:
        """The model's normalization."""
        return str(self.settings["model"]["norm"])

    @property
    def trained_iterations(self) -> int:
        """The largest number of iterations in training."""
        return int(self.settings["training"]["max_iterations"])

    @property
    def learning_rate(self) -> float:
        """The learning rate of training."""
        return float(self.settings["training"]["learning_rate"])

    @property
    def easy(self) -> ThinCurve | None:
        """The curve of the easy split."""
        return next(iter(self.curves.values()), None)

    @property
    def hard(self) -> ThinCurve | None:
        """The curve of the hardest split."""
        return next(reversed(self.curves.values()), None)

    def signal(self, name: str) -> float | None:
        """Return the value of a signal; None if it was not measured or is not defined."""
        return self.signals.get(name, {}).get("value")

    def signal_seconds(self, name: str) -> float | None:
        """Return the time that a signal took; None if it was not measured."""
        return self.signals.get(name, {}).get("seconds")

    @property
    def configuration(self) -> str:
        """All settings but the seed, as one text. Models of one configuration differ in their seed alone."""
        return self.settings_but("training", "seed")

    def settings_but(self, section: str, name: str) -> str:
        """Return all settings but one of a section, as one text."""
        others = {key: value for key, value in self.settings[section].items() if key != name}
        return json.dumps({**self.settings, section: others}, sort_keys=True)


def kept_iterations(last: int) -> list[int]:
    """Return the iterations that a thinned curve keeps, of 1 to ``last``."""
    first = range(1, min(last, ALL_UP_TO) + 1)
    later = np.geomspace(ALL_UP_TO, max(last, ALL_UP_TO), LATER_POINTS + 1).round().astype(int)
    return sorted({*first, *(int(i) for i in later if i <= last), last})


def thin(curve: Mapping[str, Any]) -> ThinCurve:
    """Return an accuracy curve, as an evaluation saved it, thinned and rounded."""
    whole = curve["answer_accuracy"]
    iterations = kept_iterations(len(whole))
    return ThinCurve(
        examples=curve["examples"],
        iterations=iterations,
        accuracy=rounded([whole[i - 1] for i in iterations]),
        best=rounded(curve["best"]),
        best_iteration=curve["best_iteration"],
        last=rounded(curve["last"]),
        solved_then_broken=rounded(curve["solved_then_broken"]),
    )


def rounded(value: Any) -> Any:
    """Return plain JSON values with numbers rounded to ``DIGITS`` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return value


def _mean(values: Sequence[float | bool | None] | None) -> float | None:
    known = [float(value) for value in values or [] if value is not None]
    return sum(known) / len(known) if known else None


def _median_log(values: Sequence[float | None] | None) -> float | None:
    return middle([math.log10(value) for value in values or [] if value is not None and value > 0])


def numbers_of(examination: Examination) -> dict[str, Any]:
    """Return the numbers that forecasts are made from, given an examination.

    They are the statuses and deciding numbers of the axes; the curves of the median residual, the median norm and the
    accuracy, as far as every point is kept (``ALL_UP_TO``); fractions and medians over the inputs for which a number is
    known, with logarithms to base 10; and seconds by part.
    """
    reach, spectrum, settings = examination.reachability, examination.spectrum, examination.settings
    dependence, geometry, curves = examination.input_dependence, examination.geometry, examination.curves
    swaps, basin, lipschitz = dependence.swaps, examination.basin, geometry.lipschitz
    found: dict[str, Any] = to_plain(
        rounded(
            {
                "verdict": examination.verdict.value,
                "axes": {axis.name: axis.status.value for axis in examination.axes},
                "numbers": {name: value for axis in examination.axes for name, value in axis.numbers.items()},
                "iterations": settings.iterations,
                "inputs": settings.inputs,
                "residual": curves.residual[1][:ALL_UP_TO],
                "norm": curves.norm[1][:ALL_UP_TO],
                "accuracy": (curves.accuracy or [])[:ALL_UP_TO],
                "right at the end": settings.accuracy,
                "prediction changes": curves.prediction_changes[:ALL_UP_TO],
                "labels": reach.counts,
                "arrived": _mean(reach.arrived),
                "rate": middle(reach.rate),
                "growth": middle(reach.growth),
                "lyapunov": middle(reach.lyapunov),
                "radius": middle(spectrum.radius if spectrum else None),
                "radius error": middle(spectrum.error if spectrum else None),
                "at fixed points": _mean(spectrum.at_fixed_point if spectrum else None),
                "moved": swaps.moved if swaps else None,
                "recall swap": swaps.recall if swaps else None,
                "start swap": swaps.start if swaps else None,
                "variance share": dependence.variance.share if dependence.variance else None,
                "returned": _mean(basin.returned if basin else None),
                "log gradient growth": _median_log(geometry.gradients.growth if geometry.gradients else None),
                "log relative lipschitz": _median_log(lipschitz.relative if lipschitz else None),
                "log resolvent": _median_log(geometry.resolvent.value if geometry.resolvent else None),
                "seconds": examination.seconds,
            }
        )
    )
    return found


def member(
    study: str, record: Record, prediction_mode: dict[str, Any] | None = None, signals: dict[str, Any] | None = None
) -> Member:
    """Return the row of a run. The row of a failed run, which may have stopped anywhere, has no curves and no numbers.

    Args:
        study: name of the study.
        record: record of the run in the study's ledger.
        prediction_mode: the examination in prediction mode, as JSON; None if there is none.
        signals: the signals, as JSON; None if there are none.
    """
    finished = record.status == "finished"
    examinations = (record.examination, prediction_mode) if finished else (None, None)
    full, short = ({} if one is None else numbers_of(Examination.from_dict(one)) for one in examinations)
    return Member(
        study=study,
        run=record.run,
        status=record.status,
        settings=record.settings,
        seconds=record.seconds,
        error=record.error,
        curves={name: thin(curve) for name, curve in ((record.evaluation if finished else None) or {}).items()},
        examination=full,
        prediction_mode=short,
        signals=rounded((signals if finished else None) or {}),
        machines=record.machines,
    )


def _setting_misfit(settings: Mapping[str, Any], name: str) -> str | None:
    """Return what is wrong with one of the needed settings, or None."""
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return f"settings.{name} is missing"
        value = value[part]
    return misfit(value, NEEDED[name], f"settings.{name}")


def _row_misfit(row: Any) -> str | None:
    """Return what is wrong with a row, as plain values, or None."""
    return misfit(row, Member) or next(
        (wrong for name in NEEDED if (wrong := _setting_misfit(row["settings"], name))), None
    )


def _checked_member(study: str, record: Record, measured: Measurements) -> Member:
    """Return the row of a run, checked.

    Raises:
        LoopscopeError: the run was not measured, or its record, a line of a ledger that may be damaged, lacks something.
    """
    prediction_mode, signals = measured.prediction_mode(), measured.signals()
    if record.status == "finished" and record.examination is not None and (prediction_mode is None or signals is None):
        raise LoopscopeError(
            f"the run {record.run} was not measured: remove its line from the study's ledger and run "
            "python -m experiments.prediction run CONFIG again"
        )
    try:
        row = member(study, record, prediction_mode, signals)
        wrong = _row_misfit(asdict(row))
    except (AttributeError, IndexError, KeyError, LoopscopeError, TypeError, ValueError) as error:
        wrong = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    if wrong is not None:
        raise LoopscopeError(
            f"the record of the run {record.run} is damaged ({wrong}): remove its line from the study's ledger"
        )
    return row


def read_population(path: Path) -> list[Member]:
    """Return the rows of a file, in order.

    Raises:
        LoopscopeError: there is no such file, it is empty, or a line is not a row of a population.
    """
    if path.is_dir():
        raise LoopscopeError(f"{path} is a folder, expected the file of a population, such as {path / LEDGER}")
    if path.parent.is_file():
        raise LoopscopeError(
            f"{path.parent} is a file, expected the folder of a population, such as {path.parent.parent}"
        )
    if not path.is_file():
        raise LoopscopeError(f"{path} does not exist: make it with  {COLLECT} STUDY_FOLDER --into {path}")
    members = []
    for number, line in numbered_lines(path):
        row = _renamed(line, {file: name for name, file in KEYS.items()})
        if (wrong := _row_misfit(row)) is not None:
            raise LoopscopeError(f"{path}, line {number} is not a row of a population ({wrong}): {COLLECT} writes them")
        curves = {name: ThinCurve(**curve) for name, curve in row.pop("curves").items()}
        members.append(Member(**row, curves=curves))
    if not members:
        raise LoopscopeError(f"{path} holds no runs: make it with  {COLLECT} STUDY_FOLDER --into {path}")
    return members


def _renamed(row: Any, names: Mapping[str, str]) -> Any:
    """Return a mapping with some of its keys renamed. Anything else is returned unchanged."""
    return {names.get(key, key): value for key, value in row.items()} if isinstance(row, dict) else row


def write_population(path: Path, members: Iterable[Member]) -> None:
    """Write rows to a file, in order."""
    make_folder(path.parent)
    rows = [_renamed(asdict(row), KEYS) for row in members]
    write_text(path, "".join(json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n" for row in rows))


def collect(folder: StudyFolder, into: Path) -> list[Member]:
    """Write the runs of a study as rows of a population's file, replacing rows of the same runs. Return all rows.

    All other rows are kept, including rows of the same study whose runs were made in another folder or on another machine.
    The rows of a study are sorted by name, because the division of configurations depends on the order of the rows, which
    must not depend on the order in which runs ended.

    Raises:
        LoopscopeError: a run was not measured, a record or the file is damaged, or the file cannot be written.
    """
    study, before = folder.path.resolve().name, read_population(into) if into.exists() else []
    own = {row.run: row for row in before if row.study == study}
    for record in folder.ledger.records().values():
        own[record.run] = _checked_member(study, record, Measurements(folder.run(record.run).path))
    members = [*(row for row in before if row.study != study), *(own[run] for run in sorted(own))]
    write_population(into, members)
    return members
