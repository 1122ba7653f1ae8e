"""Progress with the time left: a bar in a terminal, or occasional lines if output goes to a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

QUIET_INTERVAL = 30.0
"""Seconds between two lines if the output is not a terminal."""


def duration(seconds: float) -> str:
    """Format seconds as 45s, 3m 20s or 1h 05m.

    Example:
        >>> duration(45.2), duration(200), duration(3900)
        ('45s', '3m 20s', '1h 05m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def seconds_left(elapsed: float, done: float, total: float) -> float | None:
    """Return the time that the remaining work needs at the pace so far, or None before anything is done.

    Example:
        >>> seconds_left(10.0, done=1, total=4), seconds_left(10.0, done=0, total=4)
        (30.0, None)
    """
    return elapsed / done * (total - done) if done > 0 else None


def in_words(done: float, total: float | None, elapsed: float, before: float = 0.0) -> str:
    """Return a text with the work done, of which ``before`` took no time, and the time left.

    Example:
        >>> in_words(100, 400, elapsed=60.0), in_words(100, None, elapsed=60.0)
        ('100 of 400, 3m 00s left', '100')
    """
    if total is None:
        return f"{done:,.0f}"
    left = seconds_left(elapsed, done - before, total - before)
    return f"{done:,.0f} of {total:,.0f}{'' if left is None else f', {duration(left)} left'}"


class Lines:
    """Progress as lines of text, at most one per `QUIET_INTERVAL`; its methods may be called from any thread.

    Args:
        console: where lines are printed.
        label: name of the work.
        total: amount of work; None if it is not known yet.
    """

    def __init__(self, console: Console, label: str, total: float | None) -> None:
        self._console, self._label, self._total = console, label, total
        self._began = self._told = time.monotonic()
        self._done, self._lock = 0.0, Lock()
        self._before: float | None = None

    def update(
        self,
        *,
        completed: float | None = None,
        advance: float = 0,
        total: float | None = None,
        note: str = "",
    ) -> None:
        """Update the amount of work done, and print a line if it is time for one."""
        with self._lock:
            now = time.monotonic()
            if self._before is None:
                # Resumed work starts with what was done before, which says nothing about the present pace.
                self._before, self._began = completed or 0.0, self._began if completed is None else now
            self._done = self._done + advance if completed is None else completed
            self._total = self._total if total is None else total
            if now - self._told < QUIET_INTERVAL:
                return
            self._told = now
            said = in_words(self._done, self._total, now - self._began, self._before)
        self._console.print(f"{self._label}: {said}{f', {note}' if note else ''}", soft_wrap=True)

    def part(self, name: str) -> None:
        """Name the part that has begun, and print a line if it is time for one."""
        with self._lock:
            now = time.monotonic()
            if now - self._told < QUIET_INTERVAL:
                return
            self._told = now
        self._console.print(f"{self._label}: {name}, after {duration(now - self._began)}", soft_wrap=True)


@contextmanager
def bar(
    label: str,
    total: float | None,
    *columns: ProgressColumn,
    console: Console | None = None,
    transient: bool = False,
) -> Iterator[Callable[..., None]]:
    """Show the progress of some work on standard error: a bar in a terminal, otherwise lines (see `Lines`).

    Args:
        label: name of the work.
        total: amount of work; None if it is not known yet.
        columns: columns between the bar and the time left, in a terminal; by default the work done and the time spent.
        console: where to show it; standard error by default.
        transient: whether a bar is removed at the end.

    Yields:
        ``update(completed=None, advance=0, total=None, note="")``, which may be called from any thread.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = console or Console(stderr=True, markup=False, emoji=False)
    if not console.is_terminal:
        yield Lines(console, label, total).update
        return
    middle = columns or (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        *middle,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*shown, console=console, transient=transient) as progress:
        yield partial(progress.update, progress.add_task(label, total=total, note=""))
