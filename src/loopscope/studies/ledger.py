"""The ledger: one JSON line per run that ended, appended, never changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from loopscope.errors import LoopscopeError
from loopscope.files import append_line, drop_cut_line, numbered_lines
from loopscope.schema import misfit
from loopscope.stability import Examination


@dataclass(frozen=True)
class Record:
    """One run that ended.

    Args:
        run: its name in the study.
        status: finished or failed.
        settings: its settings, as plain values.
        seconds: time of each stage (train, evaluate, examine, forecast, signals), as far as it came.
        error: one line, where it failed.
        evaluation: the accuracy curves by split, where it came so far.
        examination: the examination, where it came so far.
        forecast: the examination in prediction mode, where the study asks for one.
        signals: the rival signals by name, each with value and seconds, where the study asks for them.
        machines: where it was trained, each machine once (see ``this_machine``); empty where it is not known.
    """

    run: str
    status: Literal["finished", "failed"]
    settings: dict[str, Any]
    seconds: dict[str, float]
    error: str | None = None
    evaluation: dict[str, Any] | None = None
    examination: dict[str, Any] | None = None
    forecast: dict[str, Any] | None = None
    signals: dict[str, Any] | None = None
    machines: list[str] = field(default_factory=list)

    @cached_property
    def exam(self) -> Examination | None:
        """The examination as typed values, or None where there is none.

        Raises:
            LoopscopeError: it is damaged, or of a schema that is not read any more.
        """
        return None if self.examination is None else Examination.from_dict(self.examination)


@dataclass(frozen=True)
class Ledger:
    """The append-only record of a study.

    Args:
        path: its file.
    """

    path: Path

    def append(self, record: Record) -> None:
        """Add a record; a last line that an earlier writer left cut is dropped first."""
        drop_cut_line(self.path)
        append_line(self.path, asdict(record))

    def records(self) -> dict[str, Record]:
        """Return the latest record of each run, by name.

        Raises:
            LoopscopeError: a line is not a record.
        """
        records = {}
        for number, row in numbered_lines(self.path):
            if (wrong := misfit(row, Record)) is not None:
                raise LoopscopeError(
                    f"{self.path}, line {number} is not a run's record ({wrong}): remove that line and run again"
                )
            records[row["run"]] = Record(**row)
        return records
