"""The population: many studies' runs as compact rows of one file that can be committed.

A study's own ledger keeps whole examinations, 150 kB a run; a row keeps what forecasts and outcomes are computed from, in
a few kB.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loopscope.errors import LoopscopeError
from loopscope.files import make_folder, numbered_lines, write_text
from loopscope.schema import misfit, to_plain
from loopscope.stability import Examination
from loopscope.stability.results import middle
from loopscope.studies.ledger import Record

ALL_UP_TO = 32
"""Iterations up to which every point of a curve is kept."""
LATER_POINTS = 60
"""Points kept of the rest, evenly on a log scale: each within 5% of the next for 500 iterations."""
NEEDED: dict[str, Any] = {
    "task": str,
    "model.recall": str,
    "model.norm": str,
    "training.max_iterations": int,
    "training.learning_rate": float,
}
"""Settings that every row has."""
DIGITS = 5
"""Significant digits of what is kept."""


@dataclass(frozen=True)
class ThinCurve:
    """Accuracy of one split at some iterations, from 1 to the last.

    Args:
        examples: number of examples.
        iterations: where accuracy is kept.
        accuracy: fraction of whole answers right there.
        best: largest accuracy, over all iterations.
        best_iteration: the first iteration that reaches it.
        last: accuracy at the last iteration.
        solved_then_broken: fraction of examples right at some iteration and wrong at the last.
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
    """One run of a population.

    Args:
        study: the study that it belongs to.
        run: its name there.
        status: finished or failed.
        settings: all of its settings.
        seconds: time of each stage.
        error: one line, where it failed.
        curves: by split, the easy one first and the hardest last.
        examined: what the examination found (see ``numbers_of``).
        forecast: what the one in prediction mode found.
        signals: by name, each with value and seconds (see ``signals``).
        machines: where it was trained, each machine once; empty where it is not known.
    """

    study: str
    run: str
    status: str
    settings: dict[str, Any]
    seconds: dict[str, float]
    error: str | None
    curves: dict[str, ThinCurve]
    examined: dict[str, Any]
    forecast: dict[str, Any]
    signals: dict[str, dict[str, float | None]]
    machines: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.settings["task"])

    @property
    def looped(self) -> bool:
        """Whether it is a looped model, and no baseline of fixed depth."""
        return bool(self.settings["model"].get("architecture", "looped") == "looped")

    @property
    def trained_iterations(self) -> int:
        """The most iterations in training."""
        return int(self.settings["training"]["max_iterations"])

    @property
    def easy(self) -> ThinCurve | None:
        """The curve of the easy split."""
        return next(iter(self.curves.values()), None)

    @property
    def hard(self) -> ThinCurve | None:
        """The curve of the hardest split."""
        return next(reversed(self.curves.values()), None)

    def signal(self, name: str) -> float | None:
        """Return a signal's value; None where it was not measured, or is not known."""
        return self.signals.get(name, {}).get("value")

    def signal_seconds(self, name: str) -> float | None:
        """Return what a signal cost; None where it was not measured."""
        return self.signals.get(name, {}).get("seconds")

    @property
    def cell(self) -> str:
        """The settings that the run shares with those that differ from it in their seed alone, as one text."""
        training = {name: value for name, value in self.settings["training"].items() if name != "seed"}
        return json.dumps({**self.settings, "training": training}, sort_keys=True)


def kept_iterations(last: int) -> list[int]:
    """Return the iterations that a thinned curve keeps, of 1 to ``last``."""
    first = range(1, min(last, ALL_UP_TO) + 1)
    later = np.geomspace(ALL_UP_TO, max(last, ALL_UP_TO), LATER_POINTS + 1).round().astype(int)
    return sorted({*first, *(int(i) for i in later if i <= last), last})


def thin(curve: Mapping[str, Any]) -> ThinCurve:
    """Return an accuracy curve as an evaluation saved it, thinned and rounded."""
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
    """Return plain JSON values with numbers at ``DIGITS`` significant digits."""
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


def _middle_log(values: Sequence[float | None] | None) -> float | None:
    return middle([math.log10(value) for value in values or [] if value is not None and value > 0])


def numbers_of(examination: Examination) -> dict[str, Any]:
    """Return what forecasts are made from, of an examination, over its inputs.

    Statuses and deciding numbers of the axes; curves of the median residual and norm and of the accuracy, as far as every
    point is kept (``ALL_UP_TO``); fractions and medians of what is known per input, logarithms to base 10; seconds by part.
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
                "log gradient growth": _middle_log(geometry.gradients.growth if geometry.gradients else None),
                "log relative lipschitz": _middle_log(lipschitz.relative if lipschitz else None),
                "log resolvent": _middle_log(geometry.resolvent.value if geometry.resolvent else None),
                "seconds": examination.seconds,
            }
        )
    )
    return found


def member(study: str, record: Record) -> Member:
    """Return the row of a run; a failed one, which may have stopped anywhere, has no curves."""
    finished = record.status == "finished"
    examinations = (record.examination, record.forecast) if finished else (None, None)
    examined, forecast = ({} if one is None else numbers_of(Examination.from_dict(one)) for one in examinations)
    return Member(
        study=study,
        run=record.run,
        status=record.status,
        settings=record.settings,
        seconds=record.seconds,
        error=record.error,
        curves={name: thin(curve) for name, curve in ((record.evaluation if finished else None) or {}).items()},
        examined=examined,
        forecast=forecast,
        signals=rounded((record.signals if finished else None) or {}),
        machines=record.machines,
    )


def _lacks(settings: Mapping[str, Any], name: str) -> str | None:
    """Return what is wrong with one of the settings that rows are sorted by, or None."""
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return f"settings.{name} is missing"
        value = value[part]
    return misfit(value, NEEDED[name], f"settings.{name}")


def _wrong(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a row as JSON gives it, or None."""
    return misfit(row, Member) or next((said for name in NEEDED if (said := _lacks(row["settings"], name))), None)


def _row(study: str, record: Record) -> Member:
    """Return what ``member`` does.

    Raises:
        LoopscopeError: the record, a line of a ledger that may be damaged, lacks something that rows are made of.
    """
    try:
        row = member(study, record)
        wrong = _wrong(asdict(row))
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
        LoopscopeError: there is no such file, it is empty, or a line is no row of a population.
    """
    if path.is_dir():
        raise LoopscopeError(f"{path} is a folder, expected the file of a population, such as {path / 'ledger.jsonl'}")
    if path.parent.is_file():
        raise LoopscopeError(
            f"{path.parent} is a file, expected the folder of a population, such as {path.parent.parent}"
        )
    if not path.is_file():
        raise LoopscopeError(f"{path} does not exist: make it with  loopscope study collect STUDY_FOLDER --into {path}")
    members = []
    for number, row in numbered_lines(path):
        if (wrong := _wrong(row)) is not None:
            raise LoopscopeError(
                f"{path}, line {number} is no row of a population ({wrong}): loopscope study collect writes them"
            )
        curves = {name: ThinCurve(**curve) for name, curve in row.pop("curves").items()}
        members.append(Member(**row, curves=curves))
    if not members:
        raise LoopscopeError(f"{path} holds no run")
    return members


def collect(study: str, records: Iterable[Record], into: Path) -> list[Member]:
    """Write a study's runs as rows of a population's file, in place of those of the same runs; return all rows.

    Other rows stay, also those of runs that were made in another folder of the same study, as on another machine. Rows of
    a study stand by name: how cells are divided depends on the order, which must not be that in which runs happened to end.

    Raises:
        LoopscopeError: a record is damaged, or the file is, or it cannot be written.
    """
    before = read_population(into) if into.exists() else []
    own = {row.run: row for row in before if row.study == study}
    own |= {record.run: _row(study, record) for record in records}
    members = [*(row for row in before if row.study != study), *(own[run] for run in sorted(own))]
    make_folder(into.parent)
    lines = [json.dumps(asdict(row), separators=(",", ":"), allow_nan=False) for row in members]
    write_text(into, "\n".join(lines) + "\n")
    return members
