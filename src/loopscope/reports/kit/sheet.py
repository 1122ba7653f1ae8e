"""A table that can be shown in a terminal, in an HTML page and in Markdown."""

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
        title: title of the table.
        columns: names of the columns. The first column is text, the others are numbers.
        rows: the cells.
        caption: explanation of the table.
        sections: indices of rows that are followed by a line in a terminal.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    sections: Sequence[int] = ()


def fit_widths(least: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """Return widths of columns, at least one each, with a sum of at most ``room`` if possible.

    The narrowest columns grow first, from ``least`` to ``wanted``. If ``least`` does not fit, the widest shrink first.

    Args:
        least: smallest useful width of each column, such as that of its longest word.
        wanted: sufficient width of each column, such as that of its longest cell.
        room: total width.
    """
    widths = list(least)
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    while sum(widths) < room and (short := [place for place, one in enumerate(wanted) if widths[place] < one]):
        widths[min(short, key=widths.__getitem__)] += 1
    return widths


def in_terminal(sheet: Sheet, width: int | None = None) -> Table:
    """Return a sheet as a table for a terminal. Cells wrap between words and are never truncated.

    Args:
        sheet: the table.
        width: width of the terminal in characters; that of the current terminal if None.
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
    """Return a sheet as Markdown: the title as a heading, the table, and the caption."""
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
