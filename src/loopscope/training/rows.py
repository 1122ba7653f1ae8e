"""Files of a run with one JSON line for each logged step, cut back where the run resumes."""

from __future__ import annotations

import json
from pathlib import Path

from loopscope.errors import LoopscopeError
from loopscope.files import drop_cut_line, numbered_lines, write_text


def keep_rows_until(path: Path, step: int) -> None:
    """Remove the rows of steps that the resumed run will repeat, and a last line that was cut.

    Args:
        path: the file; nothing happens if there is none.
        step: the last step to keep.

    Raises:
        LoopscopeError: a line has no step.
    """
    if not path.exists():
        return
    drop_cut_line(path)
    rows = numbered_lines(path)
    for number, row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise LoopscopeError(f"{path}, line {number} has no step: remove that line and run again")
    write_text(path, "".join(json.dumps(row) + "\n" for _, row in rows if row["step"] <= step))
