"""The rules of chess, from python-chess (GPL-3.0-or-later), which only this module, `generate` and `text` import.

Run as a module, it is a worker: it reads lines of FEN, tab and moves, and writes the arrays of ``positions``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

import chess
import numpy as np
from jaxtyping import Int8

from loopscope.tasks.chess.encoding import move_code, unpack_boards
from loopscope.tasks.data.cache import Arrays, to_bytes

REASONS = ("", "illegal position", "illegal move", "fewer than two moves")
"""Reasons by reject code. Code 0 marks a position that is kept."""
ILLEGAL_POSITION, ILLEGAL_MOVE, TOO_FEW_MOVES = 1, 2, 3


def mates(board: chess.Board, move: chess.Move) -> bool:
    """Return whether a legal move mates at once. The board is unchanged."""
    board.push(move)
    mated = board.is_checkmate()
    board.pop()
    return mated


def may_check(board: chess.Board) -> Callable[[chess.Move], bool]:
    """Return a fast test that every checking move passes and few others do. It costs a tenth of making the move.

    A move gives check from its target square, by opening a line, by castling or by capturing en passant.
    """
    king = board.king(not board.turn)
    assert king is not None
    diagonals, ranks, files = chess.BB_DIAG_ATTACKS[king], chess.BB_RANK_ATTACKS[king], chess.BB_FILE_ATTACKS[king]
    lines = diagonals[0] | ranks[0] | files[0]
    diagonal = diagonals[chess.BB_DIAG_MASKS[king] & board.occupied]
    straight = ranks[chess.BB_RANK_MASKS[king] & board.occupied] | files[chess.BB_FILE_MASKS[king] & board.occupied]
    landing = {
        chess.PAWN: chess.BB_PAWN_ATTACKS[not board.turn][king],
        chess.KNIGHT: chess.BB_KNIGHT_ATTACKS[king],
        chess.BISHOP: diagonal,
        chess.ROOK: straight,
        chess.QUEEN: diagonal | straight,
        chess.KING: 0,
    }

    def test(move: chess.Move) -> bool:
        kind = move.promotion or board.piece_type_at(move.from_square)
        assert kind is not None
        if chess.BB_SQUARES[move.from_square] & lines or chess.BB_SQUARES[move.to_square] & landing[kind]:
            return True
        return (kind == chess.PAWN and move.to_square == board.ep_square) or (
            kind == chess.KING and abs(move.from_square - move.to_square) == 2
        )

    return test


def mating_moves(board: chess.Board) -> Iterator[chess.Move]:
    """Yield the moves that mate at once. The board is unchanged at each yield."""
    test = may_check(board)
    for move in board.generate_pseudo_legal_moves():
        if test(move) and not board.is_into_check(move) and mates(board, move):
            yield move


def flip_of(board: chess.Board) -> int:
    """Return the mask (exclusive or) on square numbers that turns and mirrors the board for the side to move."""
    king = board.king(board.turn)
    assert king is not None
    return (0 if board.turn else 56) ^ (7 if chess.square_file(king) < 4 else 0)


def code_of(move: chess.Move, flip: int) -> int:
    """Return a move's code on the turned and mirrored board."""
    return move_code(move.from_square ^ flip, move.to_square ^ flip, (move.promotion or chess.PAWN) - chess.PAWN)


def bitboards(board: chess.Board) -> tuple[int, ...]:
    """Return the squares of each kind of piece, and the squares of the side to move."""
    kinds = (board.pawns, board.knights, board.bishops, board.rooks, board.queens, board.kings)
    return (*kinds, board.occupied_co[board.turn])


def codes_of(board: chess.Board) -> Int8[np.ndarray, "64"]:
    """Return the turned and mirrored piece codes of a board, which are the task's problem."""
    boards = np.array([bitboards(board)], np.uint64)
    return unpack_boards(boards[:, :6], boards[:, 6], np.array([flip_of(board)], np.int8))[0]


def answer_of(board: chess.Board, move: chess.Move) -> tuple[list[int], int]:
    """Return the codes of all legal moves, ``move`` first, and the number of accepted ones (see ``Answers``).

    ``move`` must be legal. The board is unchanged.
    """
    legal = list(board.legal_moves)
    first = [move, *(other for other in mating_moves(board) if other != move)] if mates(board, move) else [move]
    rest = [other for other in legal if other not in first]
    flip = flip_of(board)
    return [code_of(other, flip) for other in (*first, *rest)], len(first)


def positions(puzzles: Iterable[tuple[str, str]]) -> Arrays:
    """Check puzzles by the rules and return their positions to solve.

    Args:
        puzzles: FEN before the opponent's move, and the moves of the line in UCI, separated by spaces.

    Returns:
        The array ``rejects`` with one index into ``REASONS`` per puzzle, and for the puzzles kept: ``boards`` (see
        ``bitboards``), ``flips`` (see ``flip_of``), the numbers ``accepted`` and ``counts`` of accepted and legal moves,
        and ``moves``, the codes of all moves, concatenated over positions.
    """
    rejects, boards, flips, accepted, counts, moves = [], [], [], [], [], []
    for fen, line in puzzles:
        try:
            board = chess.Board(fen)
        except ValueError:
            rejects.append(ILLEGAL_POSITION)
            continue
        played = line.split()
        if not board.is_valid():
            rejects.append(ILLEGAL_POSITION)
            continue
        if len(played) < 2:
            rejects.append(TOO_FEW_MOVES)
            continue
        try:
            board.push(board.parse_uci(played[0]))
            flip, board_now = flip_of(board), bitboards(board)
            codes, right = answer_of(board, board.parse_uci(played[1]))
            for move in played[1:]:
                board.push(board.parse_uci(move))
        except ValueError:
            rejects.append(ILLEGAL_MOVE)
            continue
        rejects.append(0)
        boards.append(board_now)
        flips.append(flip)
        accepted.append(right)
        counts.append(len(codes))
        moves += codes
    return {
        "rejects": np.array(rejects, np.int8),
        "boards": np.array(boards, np.uint64).reshape(-1, 7),
        "flips": np.array(flips, np.int8),
        "accepted": np.array(accepted, np.uint8),
        "counts": np.array(counts, np.uint8),
        "moves": np.array(moves, np.int16),
    }


def main() -> None:
    """Read puzzles from standard input and write their arrays to standard output."""
    # Lines are taken one by one, so that the writer can measure progress by what has been read.
    lines = (line.decode().removesuffix("\n") for line in sys.stdin.buffer)
    arrays = positions((fen, moves) for fen, _, moves in (line.partition("\t") for line in lines))
    sys.stdout.buffer.write(to_bytes(arrays))


if __name__ == "__main__":
    main()
