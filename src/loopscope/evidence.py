"""What the package quotes about trained models: thresholds that they set, how often forecasts came true, and what keeps a
loop from collapsing.

The numbers lie in two data files, ``shipped/evidence.json`` and ``shipped/mending.json``. Each names the command that writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from loopscope.files import read_json_as

EVIDENCE = Path(__file__).parent / "shipped" / "evidence.json"
"""The data file of thresholds and forecasts."""
MENDING = EVIDENCE.with_name("mending.json")
"""The data file of options that keep a loop from collapsing."""


@dataclass(frozen=True)
class FittedThreshold:
    """A threshold that trained models set in place of a prior.

    Args:
        measure: the number that it judges.
        holds: the value from which on the number holds.
        fails: the value from which on it fails.
        origin: the models that set it, in words.
    """

    measure: str
    holds: float
    fails: float
    origin: str


@dataclass(frozen=True)
class ForecastRecord:
    """How often forecasts decided, and how often the decided ones came true.

    Args:
        models: number of models: those that solve their task.
        decided: number of these with another forecast than "cannot tell".
        right: number of decided forecasts that came true.
    """

    models: int
    decided: int
    right: int


@dataclass(frozen=True)
class Evidence:
    """Everything that the package quotes.

    Args:
        command: the command that writes the data file.
        tested_on: the models on which verdicts were compared with what came true, in words.
        thresholds: the fitted thresholds.
        forecast: how often forecasts came true.
    """

    command: str
    tested_on: str
    thresholds: list[FittedThreshold]
    forecast: ForecastRecord


def read_evidence(path: Path) -> Evidence:
    """Read a file of evidence.

    Raises:
        LoopscopeError: there is no such file, or it is damaged.
    """
    values = read_json_as(path, Evidence, "install the package again")
    return Evidence(
        values["command"],
        values["tested_on"],
        [FittedThreshold(**entry) for entry in values["thresholds"]],
        ForecastRecord(**values["forecast"]),
    )


@cache
def evidence() -> Evidence:
    """Return what the package quotes about trained models.

    Example:
        >>> from loopscope.evidence import evidence
        >>> record = evidence().forecast
        >>> record.right <= record.decided <= record.models
        True
    """
    return read_evidence(EVIDENCE)


@dataclass(frozen=True)
class MendingOption:
    """What one option against collapse bought and what it cost.

    Args:
        name: the option.
        setting: how it is set.
        mended: number of cells (configurations) in which it kept the accuracy, on average over their seeds.
        cells: number of cells that lost their accuracy without it.
        runs_mended: number of runs in which it kept the accuracy.
        runs: number of runs that had learned and lost their accuracy without it.
        left: mean accuracy left in these cells.
        bought: mean gain in accuracy left.
        easy: mean change of the accuracy after the trained iterations.
        time: CPU time of training over that without the option.
    """

    name: str
    setting: str
    mended: int
    cells: int
    runs_mended: int
    runs: int
    left: float
    bought: float
    easy: float
    time: float


@dataclass(frozen=True)
class MendingRecord:
    """How often options kept the accuracy of loops that lose it otherwise.

    Args:
        command: the command that writes the data file.
        measured_on: the loops, in words.
        iterations: number of iterations after which the accuracy counted.
        options: the options, the best first.
    """

    command: str
    measured_on: str
    iterations: int
    options: list[MendingOption]


def read_mending(path: Path) -> MendingRecord:
    """Read a file of options against collapse.

    Raises:
        LoopscopeError: there is no such file, or it is damaged.
    """
    values = read_json_as(path, MendingRecord, "install the package again")
    return MendingRecord(**{**values, "options": [MendingOption(**entry) for entry in values["options"]]})


@cache
def mending() -> MendingRecord:
    """Return what the package quotes about options that keep a loop from collapsing.

    Example:
        >>> from loopscope.evidence import mending
        >>> best = mending().options[0]
        >>> 0 <= best.mended <= best.cells
        True
    """
    return read_mending(MENDING)
