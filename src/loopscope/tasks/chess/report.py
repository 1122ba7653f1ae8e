"""The report on a set of chess puzzles."""

from __future__ import annotations

from pathlib import Path

from loopscope.tasks.chess.puzzles import proof, read_puzzles, write_puzzles
from loopscope.tasks.chess.task import Chess
from loopscope.tasks.data.report import DataReport, histogram, overlap


def chess_report(task: Chess, verify: bool, out: Path | None) -> DataReport:
    """Report on the data of a chess task (see ``Reporter``)."""
    origin = task.origin()
    puzzles = read_puzzles(origin, task.rows)
    splits = task.splits()
    # One void scalar per position, equal for positions that agree on all 64 squares.
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
