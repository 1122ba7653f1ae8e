"""Progress of data that are made now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def making(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error, where that is a terminal, how much is made and the time left.

    Args:
        what: what is made, in the plural.
        total: how many.

    Yields:
        A function of how many more there are, to be called from any thread.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"))
    console = Console(stderr=True)
    disable = not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=disable) as progress:
        shown = progress.add_task(f"make {what}", total=total)
        yield lambda more: progress.advance(shown, more)
