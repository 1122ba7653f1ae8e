"""Output of the benchmarks: JSON of one form for machines, a table for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 180
"""Characters per line, also if the output is not a terminal."""


def print_results(
    rows: Sequence[Any], columns: Mapping[str, Callable[[Any], str]], ran: Mapping[str, object], as_json: bool
) -> None:
    """Print the results of a benchmark.

    Args:
        rows: the rows, which are dataclasses.
        columns: for the heading of each column, the function that returns a row's cell.
        ran: the setting.
        as_json: whether to print only {"setting": ..., "rows": [...]}.
    """
    if as_json:
        print(json.dumps({"setting": ran, "rows": [asdict(row) for row in rows]}, indent=2, allow_nan=False))
        return
    table = Table(box=None)
    for head, cell in columns.items():
        cells = [cell(row) for row in rows]
        table.add_column(head, justify="right" if all(text[:1] in "0123456789+-" for text in cells) else "left")
    for row in rows:
        table.add_row(*[cell(row) for cell in columns.values()])
    console = Console(width=WIDTH, markup=False, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in ran.items()), soft_wrap=True)
    console.print(table)
