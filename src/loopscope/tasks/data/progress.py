"""Progress of data that are being generated or checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from loopscope.progress import bar


def generation_progress(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show how many items, such as puzzles, have been generated (see ``item_progress``)."""
    return item_progress(f"make {what}", total)


@contextmanager
def item_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many items are done (see ``loopscope.progress.bar``).

    Args:
        what: verb and plural noun, such as "check puzzles".
        total: number of items.

    Yields:
        A function to call with the number of further items that are done, from any thread.
    """
    from rich.progress import MofNCompleteColumn, TextColumn

    with bar(what, total, MofNCompleteColumn(), TextColumn("left"), transient=True) as update:
        yield lambda more: update(advance=more)
