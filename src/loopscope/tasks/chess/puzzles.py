"""Lichess's puzzle files as arrays: read once, checked by the rules, kept in the cache."""

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
from loopscope.tasks.data.progress import counting
from loopscope.tasks.data.sources import open_text, write_text_file

COLUMNS = ("PuzzleId", "FEN", "Moves", "Rating")
FORMAT = "chess 2"
"""Changes with whatever changes the arrays: caches of other formats are read anew."""
GENERATOR = 1
"""Changes with whatever changes the generated puzzles."""
ROWS_AT_A_TIME = 100
"""After so many rows progress is told."""
ROWS_PER_WORKER = 5_000
"""Fewer rows than this are not worth another process."""


@dataclass(frozen=True)
class Puzzles:
    """Positions to solve, turned and mirrored, no two alike, with all their legal moves.

    Args:
        rows: the row of the file that each is from, the first after the header being 0.
        problems: piece codes per square.
        ratings: how hard each is.
        accepted: how many of its moves are right.
        counts: how many moves it has.
        moves: codes of all moves, one position after the other (see ``Answers``).
        rejects: how many rows of the file were left out, by reason.
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
        LoopscopeError: it is not installed.
    """
    check_installed("chess", "the task chess")


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


def _run_module(module: str, options: list[str], content: Iterable[bytes] = ()) -> bytes:
    """Return what a module writes to standard output, run by a process of its own, which needs no guard in scripts.

    It is to read all of ``content``, of which each piece is asked for once the one before is taken, before it writes.
    """
    # What this process can import, that one must too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", module, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # A process that has ended takes no more: its status says why.
        with suppress(BrokenPipeError), process.stdin:
            for piece in content:
                process.stdin.write(piece)
        written = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return written


def _counted(puzzles: Sequence[tuple[str, str]], on_checked: Callable[[int], None]) -> Iterator[tuple[str, str]]:
    """Yield puzzles, and say of them, some at a time, how many were taken."""
    for start in range(0, len(puzzles), ROWS_AT_A_TIME):
        yield from (some := puzzles[start : start + ROWS_AT_A_TIME])
        on_checked(len(some))


def _worker(puzzles: Sequence[tuple[str, str]], on_checked: Callable[[int], None]) -> Arrays:
    """Return the arrays of ``rules.positions``, made by a process of its own."""
    lines = (f"{fen}\t{moves}\n".encode() for fen, moves in _counted(puzzles, on_checked))
    return from_bytes(_run_module("loopscope.tasks.chess.rules", [], lines))


def checked_positions(puzzles: Sequence[tuple[str, str]], on_checked: Callable[[int], None]) -> Arrays:
    """Return the arrays of ``rules.positions``, by as many processes as are worth their start.

    Args:
        puzzles: FEN and moves of each.
        on_checked: called with how many more were taken to be checked, from any thread.
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
    """Return the arrays of a file's puzzles, rejects counted by reason."""
    from loopscope.tasks.chess import rules

    rejects: Counter[str] = Counter()
    puzzles, ratings, places, seen = [], [], [], set()
    for place, row in enumerate(_rows(path, most)):
        if not row:
            rejects["line cut or too long"] += 1
            continue
        identity, fen, moves, rating = row
        if identity in seen:
            rejects["id seen before"] += 1
        elif re.fullmatch("[0-9]{1,4}", rating) is None:
            rejects["rating is not a number up to 9999"] += 1
        else:
            puzzles.append((" ".join(fen.split()), " ".join(moves.split())))
            ratings.append(int(rating))
            places.append(place)
        seen.add(identity)
    with counting("check puzzles", len(puzzles)) as on_checked:
        found = checked_positions(puzzles, on_checked)
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
    """Return the puzzles among the first ``most`` rows of a file in Lichess's format (plain, .zst, .xz or .gz).

    Rows that cannot be used are left out and counted: cut, of an id or position seen before, without a rating, of an
    illegal position or move.

    Raises:
        LoopscopeError: the file cannot be read, columns are missing, or python-chess is (and the cache does not know
            the file).
    """
    status = path.stat()
    return _puzzles(path, most, status.st_size, status.st_mtime_ns)


def generated_file(mates: int, seed: int) -> Path:
    """Return a file of generated puzzles, made now unless it is in the cache.

    Args:
        mates: how many mates in one, and as many in two.
        seed: decides the games that they come from.

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
    """Yield id, FEN, moves and rating of a file's puzzles, those left out left out."""
    wanted = set(puzzles.rows.tolist())
    for place, row in enumerate(_rows(path, 1 + int(puzzles.rows.max(initial=-1)))):
        if place in wanted:
            yield row


def write_puzzles(path: Path, out: Path, puzzles: Puzzles) -> None:
    """Write the puzzles that a file holds to another, in Lichess's format (see ``write_text_file``)."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(kept_rows(path, puzzles))
    write_text_file(out, file.getvalue())


def proof(path: Path, puzzles: Puzzles, most: int) -> dict[str, int]:
    """Return what reading a file anew finds against what is stored: how many fail, by reason; empty where none does.

    Reading checks by the rules that every move of every line is legal, and finds all moves that mate where the answer
    does. Where ratings are distances to mate, as of generated puzzles, that the answer is the only one is searched for.
    """
    from loopscope.tasks.chess.generate import only_mate

    require_rules()
    anew = _read(path, most)
    stored = ("problems", "ratings", "accepted", "counts", "moves")
    fails = {
        "stored otherwise than read anew": sum(
            not np.array_equal(anew[name], getattr(puzzles, name)) for name in stored
        )
    }
    if puzzles.ratings.max(initial=0) <= 2:
        lines = kept_rows(path, puzzles)
        wrong = sum(not only_mate(fen, moves.split(), int(rating)) for _, fen, moves, rating in lines)
        fails["not the only mate in so many moves"] = wrong
    return {reason: count for reason, count in fails.items() if count}
