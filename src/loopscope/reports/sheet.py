"""A table that the terminal and a page each show in their own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from loopscope.reports.page import note, table, text


@dataclass(frozen=True)
class Sheet:
    """A table.

    Args:
        title: what it shows.
        columns: their names; the first one is of words, the others of numbers.
        rows: the cells.
        caption: how to read it.
        sections: rows after which a line is drawn in a terminal.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    sections: Sequence[int] = ()


def in_terminal(sheet: Sheet) -> Table:
    """Return a sheet for a terminal."""
    drawn = Table(title=sheet.title, caption=sheet.caption or None, title_justify="left", caption_justify="left")
    for place, column in enumerate(sheet.columns):
        drawn.add_column(column, justify="left" if place == 0 else "right")
    for place, row in enumerate(sheet.rows):
        drawn.add_row(*row, end_section=place in sheet.sections)
    return drawn


def in_page(sheet: Sheet) -> str:
    """Return a sheet as HTML, with its heading."""
    caption = note(sheet.caption) if sheet.caption else ""
    return f"<h2>{text(sheet.title)}</h2>{table(sheet.columns, sheet.rows, texts=sheet.columns[:1])}{caption}"
