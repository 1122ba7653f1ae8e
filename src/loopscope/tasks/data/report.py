"""What a data set holds, and what is wrong with it."""

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
    """What a data set holds, and what is wrong with it.

    Args:
        origin: where it comes from, in words.
        sources: how many problems each of its sources gives; empty where it does not tell them apart.
        splits: how many examples each split holds, training first.
        difficulty: how many examples of each split fall into each range of difficulty, by the range's name.
        rejects: how many lines were left out, by reason.
        shared: problems, or symmetric copies of them, that lie in two splits: must be 0.
        repeated: problems that a split holds again, themselves or as a symmetric copy: must be 0.
        failed: how many problems failed the proof of their answers, by reason; None where no proof was asked for.
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
    """Return how many values lie in each range, by its name.

    Args:
        values: the values, none below the first bound.
        bounds: the first value of each range; the last one has no end.
    """
    names = [f"{begin}" if begin == end - 1 else f"{begin}-{end - 1}" for begin, end in pairwise(bounds)]
    counts, _ = np.histogram(values, [*bounds, np.inf])
    return dict(zip([*names, f"{bounds[-1]}+"], counts.tolist(), strict=True))


def overlap(keys: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Return how many keys lie in more than one split, and how many examples repeat a key of their own split.

    Args:
        keys: one number per example of each split, equal where two examples are the same problem.
    """
    distinct = [np.unique(of_split) for of_split in keys.values()]
    together = np.concatenate(distinct)
    return len(together) - len(np.unique(together)), sum(map(len, keys.values())) - len(together)


Reporter = Callable[[Any, bool, Path | None], DataReport]
"""(the task, whether to prove every answer, a file to write the data to) -> report."""
