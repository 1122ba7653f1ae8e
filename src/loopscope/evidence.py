"""What the package quotes about trained models: thresholds that they set, and how often forecasts came true.

The numbers lie in a data file, ``shipped/evidence.json``, which names the command that writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from loopscope.files import read_json_as

EVIDENCE = Path(__file__).parent / "shipped" / "evidence.json"
"""The data file."""


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
    """How often the answer of unchecked leaps from 30 steps came true.

    Args:
        right: number of models for which it came true.
        models: number of models: those that solve their task and on which forecasts were not developed.
    """

    right: int
    models: int


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
        >>> record.right <= record.models
        True
    """
    return read_evidence(EVIDENCE)
