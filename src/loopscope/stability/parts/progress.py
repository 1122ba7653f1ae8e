"""Runs the parts of an examination within its time limit, and keeps the reason why a part is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from loopscope.contexts import interruptible
from loopscope.errors import LoopscopeError, NotDefinedError, StoppedError
from loopscope.stability.orbits.trace import Trajectory

T = TypeVar("T")
LONGEST_REASON = 300
"""Largest number of characters of the reason why a part is missing."""


class Progress:
    """The progress of an examination: what was done, and what could not be.

    Args:
        time_limit: seconds after which no further part begins and the current one ends early; None for no limit.
        on_part: called with the name of each part as it begins.

    Attributes:
        unknown: the missing parts, and why they are missing.
        undefined: the missing parts that are not defined for this loop.
        seconds: time that each part took.
    """

    def __init__(self, time_limit: float | None, on_part: Callable[[str], None] | None = None) -> None:
        self.unknown: dict[str, str] = {}
        self.undefined: set[str] = set()
        self.seconds: dict[str, float] = {}
        self._time_limit, self._on_part = time_limit, on_part
        self._began = time.perf_counter()

    def nested(self) -> Progress:
        """Return the progress of an examination inside this one. It shares the clock and does not report parts."""
        inner = Progress(self._time_limit)
        inner._began = self._began
        return inner

    def late(self) -> bool:
        """Return whether the time limit has passed."""
        return self._time_limit is not None and time.perf_counter() - self._began > self._time_limit

    def run(self, part: str, work: Callable[[], T]) -> T | None:
        """Do a part. If it cannot be done or the time is over, keep the reason and return None."""
        if self.late():
            self.unknown[part] = self._over
            return None
        try:
            with interruptible(self.late):
                return self.timed(part, work)
        except StoppedError:
            self.unknown[part] = self._over
            return None
        except (LoopscopeError, RuntimeError) as error:
            self.unknown[part] = one_line(error)
            if isinstance(error, NotDefinedError):
                self.undefined.add(part)
            return None

    def timed(self, part: str, work: Callable[[], T]) -> T:
        """Do a part that must succeed, and record its time."""
        if self._on_part is not None:
            self._on_part(part)
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[part] = round(time.perf_counter() - began, 3)

    def skip(self, parts: Iterable[str], reason: str) -> None:
        """Note that parts are missing, and why."""
        self.unknown.update(dict.fromkeys(parts, reason))

    def note_cut(self, trajectory: Trajectory) -> None:
        """Note that orbits ended early if the time limit has passed."""
        if self.late():
            self.unknown["orbits"] = f"{self._over} after {int(trajectory.iterations.max())} iterations"

    def skip_if_late(self, part: str) -> bool:
        """Return whether the time is over, and if so, note it for a part."""
        if self.late():
            self.unknown[part] = self._over
        return self.late()

    def end(self) -> None:
        """Record the time of the whole examination."""
        self.seconds["total"] = round(time.perf_counter() - self._began, 3)

    @property
    def _over(self) -> str:
        return f"the time limit of {self._time_limit:g} s had passed"


def one_line(error: Exception) -> str:
    """Return an error's message as one line of bounded length."""
    return " ".join(str(error).split())[:LONGEST_REASON]
