"""When a watch measures: at fixed steps, or as often as a share of the training time allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Spent:
    """Time of a training run, with what its measurements took.

    Args:
        elapsed: seconds of training so far, measurements included.
        spent: seconds of all measurements.
        cost: seconds that the next measurement is expected to take; None before any is known.
    """

    elapsed: float = 0.0
    spent: float = 0.0
    cost: float | None = None

    def allows(self, share: float) -> bool:
        """Return whether one more measurement stays within a share of the elapsed time."""
        return self.cost is not None and self.spent + self.cost <= share * self.elapsed


class Stopwatch:
    """Keeps the time of training and of measurements.

    Args:
        clock: returns seconds; only differences count.
        before: time of the run before this process, if it was resumed.
    """

    def __init__(self, clock: Callable[[], float], before: Spent | None = None) -> None:
        self._clock, self._before = clock, before or Spent()
        self._began = clock()
        self._spent, self._cost = self._before.spent, self._before.cost

    def read(self) -> Spent:
        """Return the time so far."""
        return Spent(self._before.elapsed + self._clock() - self._began, self._spent, self._cost)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time inside as spent on measurements."""
        began = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - began

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Count the time inside, and expect the next measurement to take as long."""
        before = self._spent
        with self.counted():
            yield
        self._cost = self._spent - before

    def expect(self, cost: float) -> None:
        """Expect the next measurement to take ``cost`` seconds, unless one has been timed already."""
        if self._cost is None:
            self._cost = cost
