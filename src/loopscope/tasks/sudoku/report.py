"""The report on a set of sudoku puzzles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loopscope.tasks.data.report import DataReport, histogram, overlap
from loopscope.tasks.sudoku.puzzles import proof, stored_puzzles, write_puzzles
from loopscope.tasks.sudoku.rules import symmetry_classes
from loopscope.tasks.sudoku.task import Sudoku, puzzles_of


def sudoku_report(task: Sudoku, verify: bool, out: Path | None) -> DataReport:
    """Report on the data of a sudoku task (see ``Reporter``)."""
    origin = task.origin()
    puzzles = puzzles_of(task, origin)
    splits = task.splits()
    # The classes are recomputed from the splits, independently of the classes in the file.
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
        failed=proof(stored_puzzles(origin, task.rows) if origin else puzzles) if verify else None,
    )
