"""What a data set holds: what ``loopscope data`` prepares, checks and says. Each task that reads files has a reporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from loopscope.errors import LoopscopeError
from loopscope.tasks.task import Split


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


def sudoku_report(task: Any, verify: bool, out: Path | None) -> DataReport:
    """Return what the data of a sudoku task hold; see ``REPORTERS``."""
    from loopscope.tasks.sudoku.puzzles import proof, write_puzzles
    from loopscope.tasks.sudoku.rules import symmetry_classes
    from loopscope.tasks.sudoku.task import puzzles_of

    origin = task.origin()
    puzzles = puzzles_of(task, origin)
    splits: dict[str, Split] = {"training": task.training_split(), **task.evaluation_splits()}
    # Copies are looked for among what the splits hold, whatever the file says of its puzzles' classes.
    shared, repeated = overlap(
        {name: symmetry_classes(split.problems.numpy(), split.answers.numpy()) for name, split in splits.items()}
    )
    if out is not None:
        write_puzzles(out, puzzles)
    graded = {name: split.difficulty.numpy() for name, split in splits.items() if split.difficulty is not None}
    return DataReport(
        origin=str(origin or f"{len(puzzles)} generated puzzles"),
        sources=dict(
            zip(puzzles.names, np.bincount(puzzles.sources, minlength=len(puzzles.names)).tolist(), strict=True)
        ),
        splits={name: len(split) for name, split in splits.items()},
        difficulty={name: histogram(guesses, (0, 1, 4, 10, 100, 1000)) for name, guesses in graded.items()},
        rejects=puzzles.rejects,
        shared=shared,
        repeated=repeated,
        failed=proof(puzzles) if verify else None,
    )


def chess_report(task: Any, verify: bool, out: Path | None) -> DataReport:
    """Return what the data of a chess task hold; see ``REPORTERS``."""
    from loopscope.tasks.chess.puzzles import proof, read_puzzles, write_puzzles

    origin = task.origin()
    puzzles = read_puzzles(origin, task.rows)
    splits: dict[str, Split] = {"training": task.training_split(), **task.evaluation_splits()}
    # One void number per position: equal where all 64 squares are.
    shared, repeated = overlap({name: split.problems.numpy().view("V64").ravel() for name, split in splits.items()})
    if out is not None:
        write_puzzles(origin, out, puzzles)
    graded = {name: split.difficulty.numpy() for name, split in splits.items() if split.difficulty is not None}
    bounds = (0, *range(601, 3000, 200)) if puzzles.ratings.max() > 2 else (1, 2)
    return DataReport(
        origin=str(origin),
        sources={},
        splits={name: len(split) for name, split in splits.items()},
        difficulty={name: histogram(ratings, bounds) for name, ratings in graded.items()},
        rejects=puzzles.rejects,
        shared=shared,
        repeated=repeated,
        failed=proof(origin, puzzles, task.rows) if verify else None,
    )


Reporter = Callable[[Any, bool, Path | None], DataReport]

REPORTERS: dict[str, Reporter] = {"sudoku": sudoku_report, "chess": chess_report}
"""By a task's name: maps (the task, whether to prove every answer, a file to write the data to) to a report."""


def reporter_of(task: str) -> Reporter:
    """Return what reports of a task's data; see ``REPORTERS``.

    Raises:
        LoopscopeError: the task reads no data, so that there is nothing to prepare.
    """
    if task not in REPORTERS:
        raise LoopscopeError(
            f"the data of {task} are made from their seed when they are needed, so there is nothing to prepare: "
            f"loopscope data is for {' and '.join(REPORTERS)}"
        )
    return REPORTERS[task]
