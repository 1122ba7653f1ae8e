"""Generation of chess puzzles: mates in one and in two with a unique solution, from simulated games.

In each game one side prefers captures and checks and the other moves almost at random, so that mates occur often and at every
stage. A search decides whether a position is a puzzle: a mate in one has exactly one mating move; a mate in two has none, and
exactly one move after which a mating move answers every reply. Run as a module, it writes the puzzles in Lichess's format,
with the distance to mate as the rating:

    python -m loopscope.tasks.chess.generate --mates 600 --seed 0 --out src/loopscope/shipped/data/chess_puzzles.csv.xz
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import multiprocessing
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import chess

from loopscope.errors import check_positive
from loopscope.tasks.chess.rules import codes_of, mating_moves
from loopscope.tasks.data.progress import generation_progress
from loopscope.tasks.data.sources import check_ending, write_text_file

PLIES = 160
"""Number of plies after which a game is abandoned."""
GREED = (0.6, 0.1)
"""Probability that the stronger and the weaker side choose a capture or check instead of any random move."""
FIRST_SEARCHED = 12
"""First ply at which mates are searched for. Earlier mates are very rare."""
MOST_FLIGHTS = 3
"""Largest number of flight squares of the opponent's king for a mate in two. With more, such mates are rare."""

GAMES_A_ROUND = 64
"""Number of games that are distributed to processes at a time."""


@dataclass(frozen=True)
class MadePuzzle:
    """A puzzle in the form of Lichess.

    Args:
        fen: position before the opponent's move.
        moves: the opponent's move, then the answer and, if it does not mate yet, one defence and the mate.
        distance: number of moves to mate, 1 or 2.
        problem: position to solve in the task's encoding, equal for positions that a model cannot distinguish.
    """

    fen: str
    moves: tuple[str, ...]
    distance: int
    problem: bytes


def _refutation(board: chess.Board, replies: list[chess.Move]) -> chess.Move | None:
    """Return the first reply that no mating move answers, or None if every reply is mated."""
    for reply in replies:
        board.push(reply)
        mated = any(True for _ in mating_moves(board))
        board.pop()
        if not mated:
            return reply
    return None


def _flights(board: chess.Board) -> int:
    """Count the flight squares of the opponent's king. The side to move must not be in check."""
    board.push(chess.Move.null())
    flights = sum(1 for _ in board.generate_legal_moves(board.kings & board.occupied_co[board.turn]))
    board.pop()
    return flights


def mates_in_two(board: chess.Board) -> list[chess.Move]:
    """Return the moves after which a mating move answers every reply, found by exhaustive search."""
    found, refutations = [], set[tuple[int, int]]()
    for move in list(board.legal_moves):
        board.push(move)
        replies = list(board.legal_moves)
        # A reply that refuted an earlier move often refutes the next one, so it is tried first.
        replies.sort(key=lambda reply: (reply.from_square, reply.to_square) not in refutations)
        refutation = _refutation(board, replies)
        board.pop()
        if refutation is not None:
            refutations.add((refutation.from_square, refutation.to_square))
        elif replies:
            found.append(move)
    return found


def only_mate(fen: str, moves: Sequence[str], distance: int) -> bool:
    """Return whether a puzzle's answer is the only mate in one, or the only mate in two without a mate in one."""
    board = chess.Board(fen)
    board.push_uci(moves[0])
    in_one = list(mating_moves(board))
    only = [chess.Move.from_uci(moves[1])]
    return in_one == only if distance == 1 else not in_one and mates_in_two(board) == only


def _line(board: chess.Board, answer: chess.Move) -> tuple[str, ...]:
    """Return the answer and, if it does not mate, the first defence and the first mating move after it."""
    board = board.copy(stack=False)
    board.push(answer)
    if board.is_checkmate():
        return (answer.uci(),)
    defence = next(iter(board.legal_moves))
    board.push(defence)
    return answer.uci(), defence.uci(), next(mating_moves(board)).uci()


def _chosen(board: chess.Board, greed: float, source: random.Random) -> chess.Move:
    """Draw a move: a capture or check with probability ``greed``, else any legal move."""
    moves = list(board.legal_moves)
    if source.random() < greed:
        forcing = [move for move in moves if board.is_capture(move) or board.gives_check(move)]
        moves = forcing or moves
    return source.choice(moves)


def game_puzzles(seed: int, game: int) -> Iterator[MadePuzzle]:
    """Yield the first mate in one and the first mate in two of a game. Further ones would be too similar."""
    source = random.Random(f"{seed} {game}")
    stronger = source.choice([chess.WHITE, chess.BLACK])
    board, missing = chess.Board(), {1, 2}
    for ply in range(PLIES):
        if board.is_game_over() or not missing:
            return
        before, move = board.fen(), _chosen(board, GREED[board.turn != stronger], source)
        board.push(move)
        if ply < FIRST_SEARCHED or board.turn != stronger:
            continue
        answers, distance = list(mating_moves(board)), 1
        if not answers and 2 in missing and not board.is_check() and _flights(board) <= MOST_FLIGHTS:
            answers, distance = mates_in_two(board), 2
        if len(answers) == 1 and distance in missing:
            missing.remove(distance)
            problem = codes_of(board).tobytes()
            yield MadePuzzle(before, (move.uci(), *_line(board, answers[0])), distance, problem)


def _game(place: tuple[int, int]) -> list[MadePuzzle]:
    return list(game_puzzles(*place))


def collect(games: Iterable[list[MadePuzzle]], mates: int) -> list[MadePuzzle]:
    """Return the first ``mates`` distinct puzzles of each distance in games, the mates in one first."""
    found: dict[int, dict[bytes, MadePuzzle]] = {1: {}, 2: {}}
    with generation_progress("mates", len(found) * mates) as on_made:
        for puzzles in games:
            for puzzle in puzzles:
                kind = found[puzzle.distance]
                if len(kind) < mates and puzzle.problem not in kind:
                    kind[puzzle.problem] = puzzle
                    on_made(1)
            if all(len(kind) == mates for kind in found.values()):
                break
    return [puzzle for kind in found.values() for puzzle in kind.values()]


def generate(mates: int, seed: int) -> list[MadePuzzle]:
    """Generate mates in one and in two with a unique solution each. The result depends only on the arguments.

    Args:
        mates: number of puzzles of each distance.
        seed: seed of the games.
    """
    check_positive(mates=mates)
    return collect((_game((seed, game)) for game in itertools.count()), mates)


def to_csv(puzzles: Iterable[MadePuzzle], seed: int) -> str:
    """Return puzzles in Lichess's format, with the distance to mate as the rating."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["PuzzleId", "FEN", "Moves", "Rating", "Themes"])
    for number, puzzle in enumerate(puzzles):
        themes = f"mate mateIn{puzzle.distance}"
        writer.writerow([f"{seed}-{number}", puzzle.fen, " ".join(puzzle.moves), puzzle.distance, themes])
    return file.getvalue()


def main() -> None:
    """Write generated puzzles. The number of processes does not affect them."""
    parser = argparse.ArgumentParser(description="Generate mates in one and in two with a unique solution.")
    parser.add_argument("--mates", type=int, default=1000, help="Number of puzzles of each distance.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the games.")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="Number of processes.")
    parser.add_argument("--out", type=Path, required=True, help="File to write: .csv, .csv.gz or .csv.xz.")
    options = parser.parse_args()
    check_positive(mates=options.mates, workers=options.workers)
    check_ending(options.out)
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        rounds = (range(first, first + GAMES_A_ROUND) for first in itertools.count(step=GAMES_A_ROUND))
        games = (pool.imap(_game, [(options.seed, game) for game in round_]) for round_ in rounds)
        puzzles = collect(itertools.chain.from_iterable(games), options.mates)
    write_text_file(options.out, to_csv(puzzles, options.seed))


if __name__ == "__main__":
    main()
