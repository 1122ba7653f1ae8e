"""Lichess's puzzle files as arrays: read once, checked by the rules, kept in the cache."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int16, Integer
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.tasks.cache import Arrays, cached, from_bytes
from loopscope.tasks.chess.encoding import pack_ragged, unpack_boards
from loopscope.tasks.sources import open_text

COLUMNS = ("PuzzleId", "FEN", "Moves", "Rating")
FORMAT = "chess 1"
"""Changes with whatever changes the arrays: caches of other formats are read anew."""
ROWS_PER_WORKER = 5_000
"""Fewer rows than this are not worth another process."""


@dataclass(frozen=True)
class Puzzles:
    """Positions to solve, turned and mirrored, no two alike, with all their legal moves.

    Args:
        problems: piece codes per square.
        ratings: how hard each is.
        accepted: how many of its moves are right.
        counts: how many moves it has.
        moves: codes of all moves, one position after the other (see ``Answers``).
        rejects: how many rows of the file were left out, by reason.
    """

    problems: Int8[np.ndarray, "puzzles 64"]
    ratings: Int16[np.ndarray, "puzzles"]
    accepted: Integer[np.ndarray, "puzzles"]
    counts: Integer[np.ndarray, "puzzles"]
    moves: Int16[np.ndarray, "all"]
    rejects: dict[str, int]

    def __len__(self) -> int:
        return len(self.ratings)

    def packed(self) -> Int16[Tensor, "puzzles columns"]:
        """Return the answers, packed (see ``Answers``)."""
        return pack_ragged(self.accepted, self.counts, self.moves)


def require_rules() -> None:
    """Refuse to go on without python-chess.

    Raises:
        LoopscopeError: it is not installed.
    """
    if importlib.util.find_spec("chess") is None:
        raise LoopscopeError(
            'the rules of chess come from python-chess, which is not installed: pip install "loopscope[chess]"'
        )


def _rows(path: Path, most: int) -> Iterator[list[str]]:
    """Yield the first rows of a puzzle file: id, FEN, moves, rating; an empty list for a row that is cut."""
    with open_text(path) as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise LoopscopeError(
                    f"{path} has no column {', '.join(missing)}: expected Lichess's puzzle CSV, whose first line is "
                    "PuzzleId,FEN,Moves,Rating,..."
                )
            places = [header.index(name) for name in COLUMNS]
            for row in islice(reader, most):
                yield [row[place] for place in places] if len(row) == len(header) else []
        except csv.Error as error:
            raise LoopscopeError(f"{path}, line {reader.line_num} is no CSV: {error}") from error


def _worker(puzzles: Sequence[tuple[str, str]]) -> Arrays:
    """Return the arrays of ``rules.positions``, made by a process of its own."""
    lines = "".join(f"{fen}\t{moves}\n" for fen, moves in puzzles)
    command = [sys.executable, "-m", "loopscope.tasks.chess.rules"]
    done = subprocess.run(command, input=lines.encode(), stdout=subprocess.PIPE, check=True)
    return from_bytes(done.stdout)


def checked_positions(puzzles: Sequence[tuple[str, str]]) -> Arrays:
    """Return the arrays of ``rules.positions``, by as many processes as are worth their start."""
    from loopscope.tasks.chess import rules

    workers = min(os.cpu_count() or 1, len(puzzles) // ROWS_PER_WORKER)
    if workers <= 1:
        return rules.positions(puzzles)
    shares = [puzzles[len(puzzles) * i // workers : len(puzzles) * (i + 1) // workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(_worker, shares))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read(path: Path, most: int) -> Arrays:
    """Return the arrays of a file's puzzles, rejects counted by reason."""
    from loopscope.tasks.chess import rules

    rejects: Counter[str] = Counter()
    puzzles, ratings, seen = [], [], set()
    for row in _rows(path, most):
        if not row:
            rejects["line cut or too long"] += 1
            continue
        identity, fen, moves, rating = row
        if identity in seen:
            rejects["id seen before"] += 1
        elif not rating.isascii() or not rating.isdigit() or int(rating) > 10_000:
            rejects["rating is no number"] += 1
        else:
            puzzles.append((" ".join(fen.split()), " ".join(moves.split())))
            ratings.append(int(rating))
        seen.add(identity)
    found = checked_positions(puzzles)
    kept = found["rejects"] == 0
    for code in found["rejects"][~kept]:
        rejects[rules.REASONS[code]] += 1
    problems = unpack_boards(found["boards"][:, :6], found["boards"][:, 6], found["flips"])
    _, first = np.unique(problems.view("V64").ravel(), return_index=True)
    rejects["position seen before"] += len(problems) - len(first)
    first.sort()
    fresh = np.zeros(len(problems), bool)
    fresh[first] = True
    rejects = +rejects
    return {
        "problems": problems[first],
        "ratings": np.array(ratings, np.int16)[kept][first],
        "accepted": found["accepted"][first],
        "counts": found["counts"][first],
        "moves": found["moves"][np.repeat(fresh, found["counts"])],
        "reasons": np.array(list(rejects), dtype=np.str_),
        "rejected": np.array(list(rejects.values()), np.int64),
    }


@lru_cache(maxsize=2)
def _puzzles(path: Path, most: int, size: int, changed: int) -> Puzzles:
    def make() -> Arrays:
        require_rules()
        return _read(path, most)

    arrays = cached(path, f"{FORMAT}, {most} rows", make)
    reasons, rejected = arrays.pop("reasons").tolist(), arrays.pop("rejected").tolist()
    return Puzzles(**arrays, rejects=dict(zip(reasons, rejected, strict=True)))


def read_puzzles(path: Path, most: int) -> Puzzles:
    """Return the puzzles among the first ``most`` rows of a file in Lichess's format (plain, .zst, .xz or .gz).

    Rows that cannot be used are left out and counted: cut, of an id or position seen before, without a rating, of an
    illegal position or move.

    Raises:
        LoopscopeError: the file cannot be read, columns are missing, or python-chess is (and the cache does not know
            the file).
    """
    status = path.stat()
    return _puzzles(path, most, status.st_size, status.st_mtime_ns)
