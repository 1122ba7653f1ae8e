"""A table that the terminal, a page and a document each show in their own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from loopscope.reports.kit.page import note, table, text


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


def fit_widths(least: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """Return widths of columns that together take at most ``room``, at least one each.

    The narrowest grow first, from the least to what is wanted; where not even the least has room, the widest shrink first.

    Args:
        least: what each needs, as its longest word does.
        wanted: what is enough for each, as for its longest cell.
        room: what all have together.
    """
    widths = list(least)
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    while sum(widths) < room and (short := [place for place, one in enumerate(wanted) if widths[place] < one]):
        widths[min(short, key=widths.__getitem__)] += 1
    return widths


def in_terminal(sheet: Sheet, width: int | None = None) -> Table:
    """Return a sheet for a terminal: cells are wrapped between words, and never cut.

    Args:
        sheet: the table.
        width: columns of the terminal; those of the one that it is shown in, if left out.
    """
    cells = [[row[place] for row in sheet.rows] for place in range(len(sheet.columns))]
    room = (Console().width if width is None else width) - 3 * len(cells) - 1
    named = list(zip(sheet.columns, cells, strict=True))
    least = [max((len(word) for cell in [name, *own] for word in cell.split()), default=1) for name, own in named]
    # Headings are the first to wrap.
    widths = fit_widths(least, [max(map(len, own), default=1) for own in cells], room)
    widths = fit_widths(widths, list(map(len, sheet.columns)), room)
    drawn = Table(title=sheet.title, caption=sheet.caption or None, title_justify="left", caption_justify="left")
    for place, (name, wide) in enumerate(zip(sheet.columns, widths, strict=True)):
        drawn.add_column(name, justify="left" if place == 0 else "right", width=wide, overflow="fold")
    for place, row in enumerate(sheet.rows):
        drawn.add_row(*row, end_section=place in sheet.sections)
    return drawn


def in_markdown(sheet: Sheet) -> str:
    """Return a sheet as Markdown: its title as a heading, the table, how to read it."""
    rule = f"|{'---|' * len(sheet.columns)}"
    lines = [_markdown_row(sheet.columns), rule, *map(_markdown_row, sheet.rows)]
    parts = [f"### {sheet.title}", "\n".join(lines), *([sheet.caption] if sheet.caption else [])]
    return "\n\n".join(parts) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def in_page(sheet: Sheet) -> str:
    """Return a sheet as HTML, with its heading."""
    caption = note(sheet.caption) if sheet.caption else ""
    return f"<h2>{text(sheet.title)}</h2>{table(sheet.columns, sheet.rows, texts=sheet.columns[:1])}{caption}"
