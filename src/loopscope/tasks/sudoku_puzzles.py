"""Sudoku puzzles as arrays: read from files and checked against the rules, with what is left out counted by reason."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int8, UInt64

from loopscope.errors import LoopscopeError
from loopscope.tasks.sources import open_text

CELLS = 81
DIGITS = 0b1111111110
COLUMNS = ("source", "puzzle", "solution", "guesses", "iso_hash")


@dataclass(frozen=True)
class Puzzles:
    """Puzzles that are known to be right, one row each.

    Args:
        puzzles: digits row by row, 0 where a cell is empty.
        solutions: the solved grids.
        guesses: guesses that a fewest-candidates search needs to solve the puzzle and prove its solution unique.
        classes: equal where two puzzles are symmetric copies of each other.
        sources: the index into ``names`` of where a puzzle is from.
        names: names of the sources.
        rejects: how many puzzles were left out, by reason.
    """

    puzzles: Int8[np.ndarray, "n 81"]
    solutions: Int8[np.ndarray, "n 81"]
    guesses: Int[np.ndarray, "n"]
    classes: UInt64[np.ndarray, "n"]
    sources: Int[np.ndarray, "n"]
    names: tuple[str, ...]
    rejects: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.puzzles)

    @property
    def givens(self) -> Int[np.ndarray, "n"]:
        """How many cells of each puzzle are filled."""
        return (self.puzzles > 0).sum(1)

    def rows(self, rows: np.ndarray) -> Puzzles:
        """Return the puzzles of these rows, or those where a mask is true."""
        return Puzzles(
            self.puzzles[rows],
            self.solutions[rows],
            self.guesses[rows],
            self.classes[rows],
            self.sources[rows],
            self.names,
            self.rejects,
        )


def cells(texts: list[str]) -> tuple[Int8[np.ndarray, "n 81"], Bool[np.ndarray, "n"]]:
    """Return grids from texts of 81 characters, 1-9 and 0 or . where empty, and which texts are such."""
    right = np.array([len(text) == CELLS and text.isascii() for text in texts], dtype=bool)
    empty = "0" * CELLS
    joined = "".join(text if fine else empty for text, fine in zip(texts, right, strict=True))
    codes = np.full(256, -1, dtype=np.int8)
    codes[ord(".")] = 0
    codes[ord("0") : ord("9") + 1] = range(10)
    grids = codes[np.frombuffer(joined.encode("ascii"), dtype=np.uint8)].reshape(-1, CELLS)
    right &= (grids >= 0).all(1)
    return grids, right


def solved(grids: Int8[np.ndarray, "n 81"]) -> Bool[np.ndarray, "n"]:
    """Return which grids hold each digit once in every row, column and box."""
    boards = grids.reshape(-1, 9, 9)
    boxes = boards.reshape(-1, 3, 3, 3, 3).swapaxes(2, 3).reshape(-1, 9, 9)
    right = np.ones(len(grids), dtype=bool)
    for units in (boards, boards.swapaxes(1, 2), boxes):
        right &= (np.bitwise_or.reduce(1 << units.clip(0, 9).astype(np.int16), axis=2) == DIGITS).all(1)
    return right


def read_puzzles(path: Path) -> Puzzles:
    """Read a CSV with the columns source, puzzle, solution, guesses and iso_hash; others are ignored.

    Raises:
        LoopscopeError: the file cannot be read, lacks a column, or holds no puzzle that is right.
    """
    with open_text(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise LoopscopeError(
                f"{path} lacks the columns {', '.join(missing)}; its first line is {','.join(header)!r}"
            )
        rejects: Counter[str] = Counter()
        rows = [row for row in reader if len(row) == len(header) or rejects.update(["line is cut"])]
    columns = {column: [row[place] for row in rows] for place, column in enumerate(header)}
    puzzles, readable = cells(columns["puzzle"])
    solutions, complete = cells(columns["solution"])
    classes = np.array([int(text, 16) for text in columns["iso_hash"]], dtype=np.uint64)
    names, sources = np.unique(columns["source"], return_inverse=True)
    checks = {
        "not 81 characters of 0-9 or .": readable & complete,
        "solution breaks the rules": solved(solutions),
        "solution contradicts the givens": ((puzzles == 0) | (puzzles == solutions)).all(1),
    }
    kept = np.ones(len(rows), dtype=bool)
    for reason, passed in checks.items():
        rejects[reason] += int((kept & ~passed).sum())
        kept &= passed
    first = np.zeros(len(rows), dtype=bool)
    first[np.flatnonzero(kept)[np.unique(classes[kept], return_index=True)[1]]] = True
    rejects["symmetric copy of another puzzle"] += int((kept & ~first).sum())
    if not first.any():
        raise LoopscopeError(f"{path} holds no puzzle that is right: {dict(rejects)}")
    guesses = np.array(columns["guesses"]).astype(np.int64)
    found = Puzzles(
        puzzles, solutions, guesses, classes, sources, tuple(map(str, names)), {k: v for k, v in rejects.items() if v}
    )
    return found.rows(first)
