"""Progress bars for data that are being generated, read or downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


@contextmanager
def bar(what: str, total: int | None, *columns: ProgressColumn) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error if that is a terminal, and remove it at the end.

    Args:
        what: label of the bar.
        total: total amount of work; None if it is not known yet.
        columns: columns between the bar and the time left.

    Yields:
        rich's ``Progress.update`` for this bar. It may be called from any thread.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield partial(progress.update, progress.add_task(what, total=total))


def making(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show how many items, such as puzzles, have been generated (see ``counting``)."""
    return counting(f"make {what}", total)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many items are done (see ``bar``).

    Args:
        what: verb and plural noun, such as "check puzzles".
        total: number of items.

    Yields:
        A function to call with the number of further items that are done, from any thread.
    """
    from rich.progress import MofNCompleteColumn, TextColumn

    with bar(what, total, MofNCompleteColumn(), TextColumn("left")) as update:
        yield lambda more: update(advance=more)
