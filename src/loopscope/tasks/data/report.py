"""The report on a data set: its content and its faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class DataReport:
    """The content and the faults of a data set.

    Args:
        origin: description of where the data come from.
        sources: number of problems per source; empty if sources are not distinguished.
        splits: number of examples per split, training first.
        difficulty: number of examples per split and range of difficulty.
        rejects: number of rejected lines, by reason.
        shared: number of problems that are in two splits, unchanged or as a symmetric copy; must be 0.
        repeated: number of problems that occur again in their split, unchanged or as a symmetric copy; must be 0.
        failed: number of problems whose answers failed the proof, by reason; None if no proof was requested.
    """

    origin: str
    sources: Mapping[str, int]
    splits: Mapping[str, int]
    difficulty: Mapping[str, Mapping[str, int]]
    rejects: Mapping[str, int]
    shared: int
    repeated: int
    failed: Mapping[str, int] | None

    @property
    def sound(self) -> bool:
        """Whether no split shares or repeats a problem, and no proof failed."""
        return not (self.shared or self.repeated or self.failed)


def histogram(values: Float[np.ndarray, "n"], bounds: Sequence[int]) -> dict[str, int]:
    """Count the values in each range, by name of the range.

    Args:
        values: the values, none below the first bound.
        bounds: first value of each range. The last range is unbounded.
    """
    names = [f"{begin}" if begin == end - 1 else f"{begin}-{end - 1}" for begin, end in pairwise(bounds)]
    counts, _ = np.histogram(values, [*bounds, np.inf])
    return dict(zip([*names, f"{bounds[-1]}+"], counts.tolist(), strict=True))


def overlap(keys: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Count the keys that occur in several splits, and the examples that repeat a key of their own split.

    Args:
        keys: one number per example of each split, equal for two examples of the same problem.
    """
    distinct = [np.unique(of_split) for of_split in keys.values()]
    together = np.concatenate(distinct)
    return len(together) - len(np.unique(together)), sum(map(len, keys.values())) - len(together)


Reporter = Callable[[Any, bool, Path | None], DataReport]
"""A function of the task, whether to prove every answer, and a file to write the data to, that returns the report."""
