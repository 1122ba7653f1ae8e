"""Sudoku puzzles as arrays, read from files and checked by the rules. Rejected lines are counted by reason."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int8, UInt64

from loopscope.errors import LoopscopeError
from loopscope.tasks.data.cache import Arrays, cached
from loopscope.tasks.data.sources import open_text, write_text_file

CELLS = 81
DIGITS = 0b1111111110
FORMAT = "sudoku 2"
"""Version of the arrays in the cache. Increase it with any change to them, so that files are read again."""

HEADERS = (("puzzle", "solution"), ("question", "answer"))
"""Columns that a CSV must have: those of this package's files, or those of sudoku-extreme."""

ARRAYS = ("puzzles", "solutions", "guesses", "classes", "sources")
"""The fields of ``Puzzles`` with one row per puzzle."""

PART = 100_000
"""Number of lines that are held as text at a time."""


@dataclass(frozen=True)
class Puzzles:
    """Valid puzzles, one per row, without symmetric copies.

    Args:
        puzzles: digits in row-major order, 0 for an empty cell.
        solutions: the solved grids.
        guesses: guesses that a fewest-candidates search needs to prove that the solution is unique; 0 if singles solve
            the puzzle.
        classes: symmetry class: equal for two puzzles that are symmetric copies of each other.
        sources: index of the source of each puzzle in ``names``.
        names: names of the sources.
        rejects: number of rejected lines, by reason.
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
        """The number of filled cells of each puzzle."""
        return np.count_nonzero(self.puzzles, axis=1)

    def at(self, rows: np.ndarray) -> Puzzles:
        """Return the puzzles at given rows or under a mask."""
        columns: dict[str, Any] = {column: getattr(self, column)[rows] for column in ARRAYS}
        return replace(self, **columns)

    def to_arrays(self) -> Arrays:
        """Return the puzzles as arrays for ``from_arrays``."""
        return {column: getattr(self, column) for column in ARRAYS} | {
            "names": np.array(self.names, dtype=np.str_),
            "reasons": np.array(list(self.rejects), dtype=np.str_),
            "counts": np.array(list(self.rejects.values()), dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Puzzles:
        """Return the puzzles from the arrays of ``to_arrays``."""
        columns: dict[str, Any] = {column: arrays[column] for column in ARRAYS}
        rejects = dict(zip(arrays["reasons"].tolist(), arrays["counts"].tolist(), strict=True))
        return cls(**columns, names=tuple(arrays["names"].tolist()), rejects=rejects)


def cells(texts: Sequence[str]) -> tuple[Int8[np.ndarray, "n 81"], Bool[np.ndarray, "n"]]:
    """Parse texts of 81 characters (1-9, and 0 or . if empty). Return the grids, and which texts are valid."""
    right = np.array([len(text) == CELLS and text.isascii() for text in texts], dtype=bool)
    empty = "0" * CELLS
    joined = "".join(text if fine else empty for text, fine in zip(texts, right, strict=True))
    codes = np.full(256, -1, dtype=np.int8)
    codes[ord(".")] = 0
    codes[ord("0") : ord("9") + 1] = range(10)
    grids = codes[np.frombuffer(joined.encode("ascii"), dtype=np.uint8)].reshape(-1, CELLS)
    right &= (grids >= 0).all(1)
    grids[~right] = 0
    return grids, right


def units(grids: Int8[np.ndarray, "n 81"]) -> Int8[np.ndarray, "n 27 9"]:
    """Return the rows, columns and boxes of grids."""
    boards = grids.reshape(-1, 9, 9)
    boxes = boards.reshape(-1, 3, 3, 3, 3).swapaxes(2, 3).reshape(-1, 9, 9)
    return np.concatenate([boards, boards.swapaxes(1, 2), boxes], axis=1)


def solved(grids: Int8[np.ndarray, "n 81"]) -> Bool[np.ndarray, "n"]:
    """Return which grids hold each digit once in every row, column and box."""
    right: np.ndarray = (np.bitwise_or.reduce(1 << units(grids).astype(np.int16), axis=2) == DIGITS).all(1)
    return right


def breaches(puzzle: Int8[np.ndarray, "81"]) -> list[str]:
    """Describe each digit that a row, column or box of a puzzle holds more than once."""
    found = []
    for unit, digits in enumerate(units(puzzle[None])[0]):
        kind = ("row", "column", "box")[unit // 9]
        counts = np.bincount(digits, minlength=10)
        found += [
            f"{kind} {unit % 9 + 1} holds the digit {digit} more than once"
            for digit in range(1, 10)
            if counts[digit] > 1
        ]
    return found


def _table(path: Path, rows: int) -> Iterator[dict[str, list[str]]]:
    """Yield the columns of a file, some lines at a time. Truncated lines are under the name ``cut``.

    Raises:
        LoopscopeError: the file is neither a CSV with one of the ``HEADERS`` nor lines of 81 characters.
    """
    with open_text(path) as file:
        try:
            first = next(file, "").rstrip("\r\n")
            if re.fullmatch(r"[0-9.]{81}", first):
                lines = (line.strip() for line in file)
                puzzles = (line for line in (first, *lines) if line)
                yield from _columns(((line,) for line in islice(puzzles, rows)), ["puzzle"])
                return
            header = next(csv.reader([first]), [])
            if not any(set(needed) <= set(header) for needed in HEADERS):
                nearest = max(HEADERS, key=lambda needed: len(set(needed) & set(header)))
                missing = ", ".join(column for column in nearest if column not in header)
                raise LoopscopeError(
                    f"{path} lacks the columns {missing} (its first line is {first[:60]!r}): expected a CSV with puzzle and "
                    "solution, or question and answer, or lines of 81 characters, 0 or . for an empty cell"
                )
            yield from _columns(islice(csv.reader(file), rows), header)
        except csv.Error as error:
            raise LoopscopeError(f"{path} is not a valid CSV: {error}; check its quotes") from error


def _columns(lines: Iterator[Sequence[str]], header: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    while part := list(islice(lines, PART)):
        whole = [line for line in part if len(line) == len(header)]
        columns = {name: [line[place] for line in whole] for place, name in enumerate(header)}
        yield columns | {"cut": [""] * (len(part) - len(whole))}


def _numbers(texts: Sequence[str], base: int) -> tuple[np.ndarray, Bool[np.ndarray, "n"]]:
    """Parse non-negative integers. Return the numbers, 0 for an invalid text, and which texts are valid."""
    pattern = re.compile("[0-9]{1,15}" if base == 10 else "[0-9a-fA-F]{1,16}")
    right = [pattern.fullmatch(text) is not None for text in texts]
    numbers = [int(text, base) if fine else 0 for text, fine in zip(texts, right, strict=True)]
    return np.array(numbers, dtype=np.int64 if base == 10 else np.uint64), np.array(right, dtype=bool)


@dataclass
class _Sieve:
    """Rows that passed every check so far, and the number of rows that failed each. A row counts once."""

    kept: Bool[np.ndarray, "n"]
    rejects: Counter[str]

    def keep(self, passed: Bool[np.ndarray, "n"], reason: str) -> None:
        self.rejects[reason] += int((self.kept & ~passed).sum())
        self.kept &= passed


def _read_part(columns: Mapping[str, list[str]], rejects: Counter[str]) -> Puzzles:
    """Return the valid puzzles of some lines, symmetric copies included."""
    rejects["truncated line"] += len(columns["cut"])
    puzzles, readable = cells(columns.get("puzzle", columns.get("question", [])))
    sieve = _Sieve(np.ones(len(puzzles), dtype=bool), rejects)
    sieve.keep(readable, "puzzle is not 81 characters of 1-9 and 0 or .")
    stored = columns.get("solution", columns.get("answer"))
    solutions = np.zeros_like(puzzles)
    if stored is not None:
        solutions, complete = cells(stored)
        sieve.keep(complete, "solution is not 81 digits")
        sieve.keep(solved(solutions), "solution breaks the rules")
        sieve.keep(((puzzles == 0) | (puzzles == solutions)).all(1), "solution contradicts the givens")
    guesses, classes = np.zeros(len(puzzles), dtype=np.int64), np.zeros(len(puzzles), dtype=np.uint64)
    if "guesses" in columns:
        guesses, readable = _numbers(columns["guesses"], 10)
        sieve.keep(readable, "guesses is not a number")
    if "iso_hash" in columns:
        classes, readable = _numbers(columns["iso_hash"], 16)
        sieve.keep(readable, "iso_hash is not a hexadecimal number")
    if stored is None or "guesses" not in columns:
        from loopscope.tasks.sudoku.rules import MOST_GUESSES, solve_grids

        found = solve_grids(np.where(sieve.kept[:, None], puzzles, 0))
        solutions, guesses = found.solutions, found.guesses
        sieve.keep(found.found != 0, "no solution")
        sieve.keep(found.found != 2, "several solutions")
        sieve.keep(found.found == 1, f"not decided after {MOST_GUESSES} guesses")
    if "iso_hash" not in columns:
        from loopscope.tasks.sudoku.rules import symmetry_classes

        rows = np.flatnonzero(sieve.kept)
        classes[rows] = symmetry_classes(puzzles[rows], solutions[rows])
    names, sources = np.unique(columns.get("source", ["file"] * len(puzzles)), return_inverse=True)
    whole = Puzzles(puzzles, solutions, guesses, classes, sources, tuple(names.tolist()))
    return whole.at(sieve.kept)


def joined(parts: Sequence[Puzzles]) -> Puzzles:
    """Concatenate puzzles, with one list of sources and the rejects of the first part."""
    names = tuple(sorted({name for part in parts for name in part.names}))
    places = [np.array([names.index(name) for name in part.names], dtype=np.int64) for part in parts]
    sources = [place[part.sources] for place, part in zip(places, parts, strict=True)]
    columns: dict[str, Any] = {column: np.concatenate([getattr(part, column) for part in parts]) for column in ARRAYS}
    return replace(parts[0], **columns | {"sources": np.concatenate(sources), "names": names})


def without_copies(puzzles: Puzzles) -> Puzzles:
    """Return the first puzzle of every symmetry class. The others are counted among the rejects."""
    first = np.zeros(len(puzzles), dtype=bool)
    first[np.unique(puzzles.classes, return_index=True)[1]] = True
    repeated = len(puzzles) - len(np.unique(np.ascontiguousarray(puzzles.puzzles).view("S81")))
    copies = {"repeated puzzle": repeated, "symmetric copy of another puzzle": int((~first).sum()) - repeated}
    return replace(puzzles.at(first), rejects=Counter(puzzles.rejects) + Counter(copies))


def read_puzzles(path: Path, rows: int) -> Puzzles:
    """Read the puzzles of a file, or take them from the cache if the file has not changed.

    The file is a CSV with the columns puzzle and solution, or question and answer (sudoku-extreme), or it has lines of
    81 characters. The columns source, guesses and iso_hash of a CSV are used if present. Otherwise every puzzle is
    solved to count guesses and to find symmetric copies. If guesses are given, a solution is assumed to be unique;
    ``proof`` checks it.

    Args:
        path: the file, plain or compressed (see ``open_text``).
        rows: largest number of lines to read.

    Raises:
        LoopscopeError: the file cannot be read, has another format, or holds no valid puzzle.
    """

    def make() -> Arrays:
        rejects: Counter[str] = Counter()
        parts = [_read_part(columns, rejects) for columns in _table(path, rows)]
        puzzles = replace(joined(parts), rejects=+rejects) if parts else None
        if not puzzles:
            reasons = "; ".join(f"{count} with {reason!r}" for reason, count in (+rejects).items())
            raise LoopscopeError(f"{path} holds no valid puzzle: {reasons or 'it has no lines'}")
        return without_copies(puzzles).to_arrays()

    if not path.is_file():
        raise LoopscopeError(f"{path} does not exist")
    return Puzzles.from_arrays(cached(path, f"{FORMAT}, {rows} rows", make))


def write_puzzles(path: Path, puzzles: Puzzles) -> None:
    """Write puzzles as a CSV for ``read_puzzles``, compressed if the path ends in .gz or .xz.

    Raises:
        LoopscopeError: the ending is not supported, or the file cannot be written.
    """
    columns = (puzzles.sources, puzzles.puzzles, puzzles.solutions, puzzles.guesses, puzzles.classes)
    lines = [
        f"{puzzles.names[source]},{''.join(map(str, puzzle))},{''.join(map(str, solution))},{guesses},{code:016x}\n"
        for source, puzzle, solution, guesses, code in zip(*(column.tolist() for column in columns), strict=True)
    ]
    write_text_file(path, "source,puzzle,solution,guesses,iso_hash\n" + "".join(lines))


def stored_puzzles(path: Path, rows: int) -> Puzzles:
    """Read the valid puzzles of a file as they are stored, symmetric copies included, without the cache.

    Args:
        path: the file (see ``read_puzzles``).
        rows: largest number of lines to read.
    """
    return joined([_read_part(columns, Counter()) for columns in _table(path, rows)])


def proof(puzzles: Puzzles) -> dict[str, int]:
    """Recompute stored values and count the puzzles that disagree, by reason. Empty if all agree.

    Every puzzle is solved, its guesses are counted and its symmetry class is computed. Classes in this package's files
    must be equal to the computed ones. Classes from another source need only be equal for symmetric copies and
    different for all other pairs.

    Args:
        puzzles: puzzles as stored, symmetric copies included.
    """
    from loopscope.tasks.sudoku.rules import solve_grids, symmetry_classes

    found = solve_grids(puzzles.puzzles)
    unique = found.found == 1
    fails = Counter(
        {
            "solution not proven unique": int((~unique).sum()),
            "stored solution differs": int((found.solutions != puzzles.solutions).any(1).sum()),
            "stored guesses differ": int((unique & (found.guesses != puzzles.guesses)).sum()),
        }
    )
    classes = symmetry_classes(puzzles.puzzles, puzzles.solutions)
    if (classes == puzzles.classes).any():
        fails["stored iso_hash differs"] = int((classes != puzzles.classes).sum())
    else:
        pairs = len(np.unique(np.stack([classes, puzzles.classes]), axis=1).T)
        fails["symmetric copies with different iso_hash"] = pairs - len(np.unique(classes))
        fails["same iso_hash as a puzzle that is not a copy"] = pairs - len(np.unique(puzzles.classes))
    return dict(+fails)
