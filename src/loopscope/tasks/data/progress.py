"""Progress of data that are made or fetched now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


@contextmanager
def bar(what: str, total: int | None, *columns: ProgressColumn) -> Iterator[Callable[..., None]]:
    """Show a bar with the time left on standard error, where that is a terminal; it goes when all is done.

    Args:
        what: what is done.
        total: how much there is; None where that is not known yet.
        columns: what stands between the bar and the time left.

    Yields:
        rich's ``Progress.update`` of this bar, to be called from any thread.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield partial(progress.update, progress.add_task(what, total=total))


def making(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show how much is made (see ``counting``), such as puzzles."""
    return counting(f"make {what}", total)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many are done (see ``bar``).

    Args:
        what: what is done to what, in the plural, such as check puzzles.
        total: how many.

    Yields:
        A function of how many more there are, to be called from any thread.
    """
    from rich.progress import MofNCompleteColumn, TextColumn

    with bar(what, total, MofNCompleteColumn(), TextColumn("left")) as update:
        yield lambda more: update(advance=more)
