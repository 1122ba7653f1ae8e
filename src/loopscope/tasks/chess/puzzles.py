"""Chess puzzles as arrays, read from Lichess's files, checked by the rules and cached."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int16, Int32, Integer
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.extras import check_installed
from loopscope.files import make_folder
from loopscope.tasks.chess.encoding import pack_ragged, unpack_boards
from loopscope.tasks.data.cache import Arrays, cache_folder, cached, from_bytes
from loopscope.tasks.data.progress import item_progress
from loopscope.tasks.data.sources import open_text, write_text_file

COLUMNS = ("PuzzleId", "FEN", "Moves", "Rating")
FORMAT = "chess 3"
"""Version of the arrays in the cache. Increase it with any change to them, so that files are read again."""
GENERATOR = 1
"""Version of the generated puzzles. Increase it with any change to them."""
ROWS_AT_A_TIME = 100
"""Number of rows between two updates of the progress."""
ROWS_PER_WORKER = 5_000
"""Smallest number of rows that is worth another process."""


@dataclass(frozen=True)
class Puzzles:
    """Distinct positions to solve, turned and mirrored, with all their legal moves.

    Args:
        rows: row of each puzzle in the file, from 0 after the header.
        problems: piece code of each square.
        ratings: difficulty of each puzzle.
        accepted: number of right moves of each puzzle.
        counts: number of legal moves of each puzzle.
        moves: codes of all moves, concatenated over positions (see ``Answers``).
        rejects: number of rejected rows of the file, by reason.
    """

    rows: Int32[np.ndarray, "puzzles"]
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
    """Refuse to continue without python-chess.

    Raises:
        LoopscopeError: python-chess is not installed.
    """
    check_installed("chess", "the task chess")


def _rows(path: Path, most: int) -> Iterator[list[str]]:
    """Yield the id, FEN, moves and rating of the first rows of a puzzle file, or an empty list for a truncated row."""
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
            raise LoopscopeError(f"{path}, line {reader.line_num} is not valid CSV: {error}") from error


def _run_module(module: str, options: list[str], content: Iterable[bytes] = ()) -> bytes:
    """Run a module in a new process and return its standard output. Scripts need no guard against re-import.

    The module must read all of ``content`` before it writes. The next piece of ``content`` is requested only after the
    previous one was taken.
    """
    # The new process must find the same modules as this one.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", module, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # If the process ended early, its exit status says why.
        with suppress(BrokenPipeError), process.stdin:
            for piece in content:
                process.stdin.write(piece)
        written = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return written


def _counted(puzzles: Sequence[tuple[str, str]], on_checked: Callable[[int], None]) -> Iterator[tuple[str, str]]:
    """Yield puzzles, and report in steps how many have been taken."""
    for start in range(0, len(puzzles), ROWS_AT_A_TIME):
        yield from (some := puzzles[start : start + ROWS_AT_A_TIME])
        on_checked(len(some))


def _worker(puzzles: Sequence[tuple[str, str]], on_checked: Callable[[int], None]) -> Arrays:
    """Return the arrays of ``rules.positions``, computed in a new process."""
    lines = (f"{fen}\t{moves}\n".encode() for fen, moves in _counted(puzzles, on_checked))
    return from_bytes(_run_module("loopscope.tasks.chess.rules", [], lines))


def checked_positions(puzzles: Sequence[tuple[str, str]], on_checked: Callable[[int], None]) -> Arrays:
    """Return the arrays of ``rules.positions``, computed by several processes if there are enough puzzles.

    Args:
        puzzles: FEN and moves of each puzzle.
        on_checked: called with the number of further puzzles taken, from any thread.
    """
    from loopscope.tasks.chess import rules

    workers = min(os.cpu_count() or 1, len(puzzles) // ROWS_PER_WORKER)
    if workers <= 1:
        return rules.positions(_counted(puzzles, on_checked))
    shares = [puzzles[len(puzzles) * i // workers : len(puzzles) * (i + 1) // workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(partial(_worker, on_checked=on_checked), shares))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read(path: Path, most: int) -> Arrays:
    """Return the arrays of a file's puzzles, with rejects counted by reason."""
    from loopscope.tasks.chess import rules

    rejects: Counter[str] = Counter()
    puzzles, ratings, places, seen = [], [], [], set()
    for place, row in enumerate(_rows(path, most)):
        if not row:
            rejects["line truncated or too long"] += 1
            continue
        identity, fen, moves, rating = row
        if identity in seen:
            rejects["repeated id"] += 1
        elif re.fullmatch("[0-9]{1,4}", rating) is None:
            rejects["rating is not a number up to 9999"] += 1
        else:
            puzzles.append((" ".join(fen.split()), " ".join(moves.split())))
            ratings.append(int(rating))
            places.append(place)
        seen.add(identity)
    with item_progress("check puzzles", len(puzzles)) as on_checked:
        found = checked_positions(puzzles, on_checked)
    kept = found["rejects"] == 0
    for code in found["rejects"][~kept]:
        rejects[rules.REASONS[code]] += 1
    problems = unpack_boards(found["boards"][:, :6], found["boards"][:, 6], found["flips"])
    _, first = np.unique(problems.view("V64").ravel(), return_index=True)
    rejects["repeated position"] += len(problems) - len(first)
    first.sort()
    fresh = np.zeros(len(problems), bool)
    fresh[first] = True
    rejects = +rejects
    return {
        "rows": np.array(places, np.int32)[kept][first],
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
    """Read the puzzles in the first ``most`` rows of a file in Lichess's format (plain, .zst, .xz or .gz).

    Rejected rows are counted by reason: truncated, repeated id or position, no rating, illegal position or move.

    Raises:
        LoopscopeError: the file cannot be read, columns are missing, or the file is not cached and python-chess is not
            installed.
    """
    status = path.stat()
    return _puzzles(path, most, status.st_size, status.st_mtime_ns)


def generated_file(mates: int, seed: int) -> Path:
    """Return a file of generated puzzles, which is made unless it is in the cache.

    Args:
        mates: number of mates in one, and of mates in two.
        seed: seed of the games.

    Raises:
        LoopscopeError: python-chess is missing, or the file cannot be written.
    """
    path = make_folder(cache_folder()) / f"chess-generated-{GENERATOR}-{mates}-{seed}.csv.xz"
    if not path.is_file():
        require_rules()
        options = ["--mates", str(mates), "--seed", str(seed), "--out", str(path)]
        _run_module("loopscope.tasks.chess.generate", options)
    return path


def kept_rows(path: Path, puzzles: Puzzles) -> Iterator[list[str]]:
    """Yield the id, FEN, moves and rating of the puzzles in a file that were not rejected."""
    wanted = set(puzzles.rows.tolist())
    for place, row in enumerate(_rows(path, 1 + int(puzzles.rows.max(initial=-1)))):
        if place in wanted:
            yield row


def write_puzzles(path: Path, out: Path, puzzles: Puzzles) -> None:
    """Write the valid puzzles of a file to another file in Lichess's format (see ``write_text_file``)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(kept_rows(path, puzzles))
    write_text_file(out, file.getvalue())


def proof(path: Path, puzzles: Puzzles, most: int) -> dict[str, int]:
    """Read a file again and count the puzzles that disagree with the stored ones, by reason. Empty if all agree.

    Reading checks that every move is legal, and finds all mating moves if the answer mates. If ratings are distances to
    mate, as in generated puzzles, a search also checks that the answer is unique.
    """
    from loopscope.tasks.chess.generate import only_mate

    require_rules()
    anew = _read(path, most)
    stored = ("problems", "ratings", "accepted", "counts", "moves")
    fails = {
        "stored puzzle differs from the file": sum(
            not np.array_equal(anew[name], getattr(puzzles, name)) for name in stored
        )
    }
    if puzzles.ratings.max(initial=0) <= 2:
        lines = kept_rows(path, puzzles)
        wrong = sum(not only_mate(fen, moves.split(), int(rating)) for _, fen, moves, rating in lines)
        fails["answer is not the only mate at its distance"] = wrong
    return {reason: count for reason, count in fails.items() if count}
