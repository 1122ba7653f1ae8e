"""The ledger of a study: one JSON line per run that ended, appended and never changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from loopscope.errors import LoopscopeError
from loopscope.files import append_line, drop_cut_line, numbered_lines
from loopscope.schema import misfit
from loopscope.stability import Examination

FORMER = ("forecast", "signals")
"""Entries of records that earlier versions wrote. They are ignored, so that a study begun then can be continued."""


@dataclass(frozen=True)
class Record:
    """One run that ended.

    Args:
        run: name of the run in its study.
        status: finished or failed.
        settings: all settings of the run, as plain values.
        seconds: time that each stage took (train, evaluate, examine and any further ones), for the stages it reached.
        error: why the run failed, in one line.
        evaluation: accuracy curves by split, if the run got that far.
        examination: the examination, if the run got that far.
        machines: the machines that the run was trained on, each once (see ``this_machine``). Empty if unknown.
    """

    run: str
    status: Literal["finished", "failed"]
    settings: dict[str, Any]
    seconds: dict[str, float]
    error: str | None = None
    evaluation: dict[str, Any] | None = None
    examination: dict[str, Any] | None = None
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
        path: the file.
    """

    path: Path

    def append(self, record: Record) -> None:
        """Append a record, after dropping a last line that an earlier writer left incomplete."""
        drop_cut_line(self.path)
        append_line(self.path, asdict(record))

    def records(self) -> dict[str, Record]:
        """Return the latest record of each run, by name.

        Raises:
            LoopscopeError: a line is not a record.
        """
        records = {}
        for number, row in numbered_lines(self.path):
            entries = {key: value for key, value in row.items() if key not in FORMER} if isinstance(row, dict) else row
            if (wrong := misfit(entries, Record)) is not None:
                raise LoopscopeError(
                    f"{self.path}, line {number} is not a run's record ({wrong}): remove that line and run again"
                )
            records[entries["run"]] = Record(**entries)
        return records
