"""Sudoku puzzles as arrays: read from files and checked by the rules, with what is left out counted by reason."""

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
FORMAT = "sudoku 1"
"""Changes with whatever changes the arrays: caches of other formats are read anew."""

HEADERS = (("puzzle", "solution"), ("question", "answer"))
"""The columns that a CSV must have: of this project's files, or of sudoku-extreme."""

ARRAYS = ("puzzles", "solutions", "guesses", "classes", "sources")
"""The fields of ``Puzzles`` with one row per puzzle."""

PART = 100_000
"""Lines that are held as text at once."""


@dataclass(frozen=True)
class Puzzles:
    """Puzzles that are known to be right, one row each, no two of them symmetric copies.

    Args:
        puzzles: digits row by row, 0 where a cell is empty.
        solutions: the solved grids.
        guesses: guesses of a fewest-candidates search until the solution is known to be the only one; 0 where singles
            solve the puzzle.
        classes: equal where two puzzles are symmetric copies of each other.
        sources: the index into ``names`` of where a puzzle is from.
        names: names of the sources.
        rejects: how many lines were left out, by reason.
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
        return np.count_nonzero(self.puzzles, axis=1)

    def at(self, rows: np.ndarray) -> Puzzles:
        """Return the puzzles of these rows, or those where a mask is true."""
        columns: dict[str, Any] = {column: getattr(self, column)[rows] for column in ARRAYS}
        return replace(self, **columns)

    def to_arrays(self) -> Arrays:
        """Return arrays that ``from_arrays`` takes."""
        return {column: getattr(self, column) for column in ARRAYS} | {
            "names": np.array(self.names, dtype=np.str_),
            "reasons": np.array(list(self.rejects), dtype=np.str_),
            "counts": np.array(list(self.rejects.values()), dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Puzzles:
        """Return the puzzles that ``to_arrays`` wrote down."""
        columns: dict[str, Any] = {column: arrays[column] for column in ARRAYS}
        rejects = dict(zip(arrays["reasons"].tolist(), arrays["counts"].tolist(), strict=True))
        return cls(**columns, names=tuple(arrays["names"].tolist()), rejects=rejects)


def cells(texts: Sequence[str]) -> tuple[Int8[np.ndarray, "n 81"], Bool[np.ndarray, "n"]]:
    """Return grids from texts of 81 characters, 1-9 and 0 or . where empty, and which texts are such."""
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
    """Return what breaks the rules in a puzzle: each digit that a row, column or box holds twice, in words."""
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
    """Yield the columns of a file, some lines at a time; a cut line counts under the name ``cut``.

    Raises:
        LoopscopeError: it is neither a CSV with the columns of a header nor lines of 81 characters.
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
            raise LoopscopeError(f"{path} is no CSV: {error}; look at its quotes") from error


def _columns(lines: Iterator[Sequence[str]], header: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    while part := list(islice(lines, PART)):
        whole = [line for line in part if len(line) == len(header)]
        columns = {name: [line[place] for line in whole] for place, name in enumerate(header)}
        yield columns | {"cut": [""] * (len(part) - len(whole))}


def _numbers(texts: Sequence[str], base: int) -> tuple[np.ndarray, Bool[np.ndarray, "n"]]:
    """Return non-negative whole numbers, and which texts are such; the others become 0."""
    pattern = re.compile("[0-9]{1,15}" if base == 10 else "[0-9a-fA-F]{1,16}")
    right = [pattern.fullmatch(text) is not None for text in texts]
    numbers = [int(text, base) if fine else 0 for text, fine in zip(texts, right, strict=True)]
    return np.array(numbers, dtype=np.int64 if base == 10 else np.uint64), np.array(right, dtype=bool)


@dataclass
class _Sieve:
    """Rows that passed every check so far, and how many failed each; a row counts under the first it fails."""

    kept: Bool[np.ndarray, "n"]
    rejects: Counter[str]

    def keep(self, passed: Bool[np.ndarray, "n"], reason: str) -> None:
        self.rejects[reason] += int((self.kept & ~passed).sum())
        self.kept &= passed


def _read_part(columns: Mapping[str, list[str]], rejects: Counter[str]) -> Puzzles:
    """Return the right puzzles of some lines, each line's source its own name; copies are still among them."""
    rejects["line is cut"] += len(columns["cut"])
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
        sieve.keep(readable, "guesses is no number")
    if "iso_hash" in columns:
        classes, readable = _numbers(columns["iso_hash"], 16)
        sieve.keep(readable, "iso_hash is no hexadecimal number")
    if stored is None or "guesses" not in columns:
        from loopscope.tasks.sudoku.rules import MOST_GUESSES, solve

        found = solve(np.where(sieve.kept[:, None], puzzles, 0))
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
    """Return puzzles after one another, with one list of sources; the first one's rejects."""
    names = tuple(sorted({name for part in parts for name in part.names}))
    places = [np.array([names.index(name) for name in part.names], dtype=np.int64) for part in parts]
    sources = [place[part.sources] for place, part in zip(places, parts, strict=True)]
    columns: dict[str, Any] = {column: np.concatenate([getattr(part, column) for part in parts]) for column in ARRAYS}
    return replace(parts[0], **columns | {"sources": np.concatenate(sources), "names": names})


def without_copies(puzzles: Puzzles) -> Puzzles:
    """Return the first puzzle of every symmetry class, with the others counted among the rejects."""
    first = np.zeros(len(puzzles), dtype=bool)
    first[np.unique(puzzles.classes, return_index=True)[1]] = True
    repeated = len(puzzles) - len(np.unique(np.ascontiguousarray(puzzles.puzzles).view("S81")))
    copies = {"the same puzzle again": repeated, "symmetric copy of another puzzle": int((~first).sum()) - repeated}
    return replace(puzzles.at(first), rejects=Counter(puzzles.rejects) + Counter(copies))


def read_puzzles(path: Path, rows: int) -> Puzzles:
    """Read a file's puzzles, from the cache where it was read before and has not changed since.

    Formats: a CSV with the columns puzzle and solution, or question and answer (sudoku-extreme); or lines of 81
    characters. The columns source, guesses and iso_hash are taken where a CSV has them; otherwise guesses are counted
    and symmetric copies are found here, which solves every puzzle. Where guesses are given, that a solution is the only
    one is taken on trust: ``proof`` proves it.

    Args:
        path: the file, plain or compressed (see ``open_text``).
        rows: most lines to read, from its beginning.

    Raises:
        LoopscopeError: the file cannot be read, is of another format, or holds no puzzle that is right.
    """

    def make() -> Arrays:
        rejects: Counter[str] = Counter()
        parts = [_read_part(columns, rejects) for columns in _table(path, rows)]
        puzzles = replace(joined(parts), rejects=+rejects) if parts else None
        if not puzzles:
            reasons = "; ".join(f"{count} with {reason!r}" for reason, count in (+rejects).items())
            raise LoopscopeError(f"{path} holds no right puzzle: {reasons or 'it has no lines'}")
        return without_copies(puzzles).to_arrays()

    if not path.is_file():
        raise LoopscopeError(f"{path} does not exist")
    return Puzzles.from_arrays(cached(path, f"{FORMAT}, {rows} rows", make))


def write_puzzles(path: Path, puzzles: Puzzles) -> None:
    """Write puzzles as the CSV that ``read_puzzles`` reads, compressed where the path ends in .gz or .xz.

    Raises:
        LoopscopeError: the ending is another, or the file cannot be written.
    """
    columns = (puzzles.sources, puzzles.puzzles, puzzles.solutions, puzzles.guesses, puzzles.classes)
    lines = [
        f"{puzzles.names[source]},{''.join(map(str, puzzle))},{''.join(map(str, solution))},{guesses},{code:016x}\n"
        for source, puzzle, solution, guesses, code in zip(*(column.tolist() for column in columns), strict=True)
    ]
    write_text_file(path, "source,puzzle,solution,guesses,iso_hash\n" + "".join(lines))


def stored_puzzles(path: Path, rows: int) -> Puzzles:
    """Return a file's right puzzles as they are stored, symmetric copies among them; nothing comes from the cache.

    Args:
        path: the file, as ``read_puzzles`` takes it.
        rows: most lines to read, from its beginning.
    """
    return joined([_read_part(columns, Counter()) for columns in _table(path, rows)])


def proof(puzzles: Puzzles) -> dict[str, int]:
    """Return how many puzzles disagree with what is computed anew, by reason; empty where none does.

    Every puzzle is solved, its guesses are counted and its symmetry class is found. A class computed here is compared
    number by number where the file's numbers are this project's. Numbers of another project need only be equal for
    symmetric copies and different for others.

    Args:
        puzzles: as they are stored, symmetric copies among them.
    """
    from loopscope.tasks.sudoku.rules import solve, symmetry_classes

    found = solve(puzzles.puzzles)
    unique = found.found == 1
    fails = Counter(
        {
            "no proof of one solution": int((~unique).sum()),
            "stored solution is another": int((found.solutions != puzzles.solutions).any(1).sum()),
            "stored guesses are others": int((unique & (found.guesses != puzzles.guesses)).sum()),
        }
    )
    classes = symmetry_classes(puzzles.puzzles, puzzles.solutions)
    if (classes == puzzles.classes).any():
        fails["stored iso_hash is another"] = int((classes != puzzles.classes).sum())
    else:
        pairs = len(np.unique(np.stack([classes, puzzles.classes]), axis=1).T)
        fails["symmetric copies of different iso_hash"] = pairs - len(np.unique(classes))
        fails["the iso_hash of a puzzle that is not a copy"] = pairs - len(np.unique(puzzles.classes))
    return dict(+fails)
