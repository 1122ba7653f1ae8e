"""Chess as text: positions in FEN and moves in algebraic notation. Importing this module needs python-chess."""

from __future__ import annotations

import re
from functools import lru_cache

import torch
from jaxtyping import Float, Int, Int16
from rich.text import Text
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.tasks.chess.encoding import PIECES, SQUARES, Answers, pack_ragged
from loopscope.tasks.chess.puzzles import require_rules
from loopscope.tasks.text import CHANGED, Candidates, Frame, Problem, candidates_of, colour

# Checked before any import of python-chess, so that a missing package gives a one-line error.
require_rules()

import chess  # noqa: E402
import numpy as np  # noqa: E402

from loopscope.tasks.chess.rules import code_of, codes_of, flip_of, mates, mating_moves  # noqa: E402

FIELDS = (
    ("the side to move", "[wb]", "w or b"),
    ("the castling field", "-|(?=.)K?Q?k?q?", "some of KQkq, or -"),
    ("the en passant field", "-|[a-h][36]", "a square such as e3, or -"),
    ("the halfmove clock", "[0-9]{1,4}", "a number such as 0"),
    ("the move number", "[0-9]{1,4}", "a number such as 1"),
)
"""The fields after the squares in a FEN: name, pattern, and description of the expected value."""
IMPOSSIBLE = {
    chess.STATUS_NO_WHITE_KING: "white has no king",
    chess.STATUS_NO_BLACK_KING: "black has no king",
    chess.STATUS_TOO_MANY_KINGS: "there are more than two kings",
    chess.STATUS_TOO_MANY_WHITE_PAWNS: "white has more than 8 pawns",
    chess.STATUS_TOO_MANY_BLACK_PAWNS: "black has more than 8 pawns",
    chess.STATUS_PAWNS_ON_BACKRANK: "a pawn stands on rank 1 or 8",
    chess.STATUS_TOO_MANY_WHITE_PIECES: "white has more than 16 pieces",
    chess.STATUS_TOO_MANY_BLACK_PIECES: "black has more than 16 pieces",
    chess.STATUS_BAD_CASTLING_RIGHTS: "a side may castle although its king or rook is not at home (write - if neither may)",
    chess.STATUS_INVALID_EP_SQUARE: "no pawn can have just passed the en passant square (write - if there is none)",
    chess.STATUS_OPPOSITE_CHECK: "the side that is not to move is in check (is it the other side's move?)",
    chess.STATUS_TOO_MANY_CHECKERS: "more than two pieces give check",
    chess.STATUS_IMPOSSIBLE_CHECK: "no last move can have given these checks",
}
PIECE = {chess.WHITE: "bold", chess.BLACK: ""}
CHOSEN = "reverse"
SIDE = {chess.WHITE: "white", chess.BLACK: "black"}


class ChessText:
    """The FEN of a position as the problem, and the best legal move of the side to move as the answer.

    Lichess's puzzle files give the position before the opponent's move. Play that move first.
    """

    example = "r1bqkb1r/pppp1ppp/2n2n2/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq - 4 4"

    def read(self, text: str) -> Problem:
        """Parse a FEN. The two numbers at its end are optional."""
        fields = text.split()
        if len(fields) not in (4, 6):
            raise LoopscopeError(
                f"{len(fields)} fields were given, expected the 6 of a FEN (or the first 4), such as {self.example}"
            )
        _check_squares(fields[0])
        for given, (name, form, expected) in zip(fields[1:], FIELDS, strict=False):
            if not re.fullmatch(form, given):
                raise LoopscopeError(f"{name} is {given!r}, expected {expected}, such as in {self.example}")
        board = chess.Board(" ".join(fields))
        status = board.status()
        if wrong := [sentence for flag, sentence in IMPOSSIBLE.items() if status & flag]:
            raise LoopscopeError(f"no game can reach this position: {'; '.join(wrong)}")
        if not any(board.legal_moves):
            how = "mated" if board.is_check() else "stalemated"
            raise LoopscopeError(
                f"the game is over: {SIDE[board.turn]} is to move and is {how}; there is no move to find"
            )
        if board.is_insufficient_material():
            raise LoopscopeError(
                "the game is drawn: neither side has enough pieces left to mate; there is no move to find"
            )
        if board.is_seventyfive_moves():
            raise LoopscopeError(
                f"the game is drawn: the halfmove clock is {board.halfmove_clock}, and the game ends at 150; write 0 for a puzzle"
            )
        return Problem(board.fen(), torch.from_numpy(codes_of(board)))

    def line(self, problem: Problem, logits: Float[Tensor, "64 1"]) -> str:
        """Return the legal move with the highest sum of its two scores, such as "Qxf7# (h5f7)"."""
        board, move = best_move(problem, logits)
        return f"{board.san(move)} ({move.uci()})"

    def right(self, problem: Problem, logits: Float[Tensor, "64 1"]) -> bool | None:
        """Return True if the move mates, False if only other moves mate, and None if no move mates."""
        board, move = best_move(problem, logits)
        if mates(board, move):
            return True
        return False if any(True for _ in mating_moves(board)) else None

    def choices(self, problem: Problem) -> Int16[Tensor, "1 columns"]:
        """Return all legal moves, packed like the answers of a split."""
        return _packed(problem.text)

    def parts(self, problem: Problem, logits: Float[Tensor, "64 1"]) -> Int[Tensor, "1"]:
        """Return the place of the best move among the legal moves: the move is the whole answer."""
        return _totals(problem, logits).argmax(keepdim=True)

    def candidates(self, problem: Problem, logits: Float[Tensor, "64 1"], count: int) -> list[Candidates]:
        """Return the probabilities of the legal moves; the answer has a single part."""
        board = chess.Board(problem.text)
        moves = [board.san(move) for move in board.legal_moves]
        return candidates_of(_totals(problem, logits)[None], ["move"], moves, count)

    def picture(self, problem: Problem, frame: Frame) -> Text:
        """Return the move, and the board from the side to move, with the move's squares in brackets and white in capitals.

        If the two squares of highest score are not those of the move, they are named, because they are the answer under
        the paper's rule.
        """
        board, move = best_move(problem, frame.logits)
        squares = {move.from_square, move.to_square}
        text = Text(f"{SIDE[board.turn]} to move: ")
        text.append(self.line(problem, frame.logits), style=colour(int(frame.since.max())))
        text.append(f" {CHANGED}\n" if bool(frame.changed.any()) else "\n")
        up = 1 if board.turn else -1
        for rank in range(8)[::-up]:
            text.append(f"{rank + 1} ")
            for file in range(8)[::up]:
                square = chess.square(file, rank)
                piece = board.piece_at(square)
                cell = piece.symbol() if piece else "."
                style = PIECE[piece.color] if piece else ""
                if square in squares:
                    text.append(f"[{cell}]", style=f"{style} {CHOSEN}".strip())
                else:
                    text.append(f" {cell} ", style=style)
            text.append("\n")
        text.append("  " + "".join(f" {file} " for file in chess.FILE_NAMES[::up]))
        highest = [int(square) ^ flip_of(board) for square in frame.logits[:, 0].topk(2).indices]
        if set(highest) != squares:
            first, second = (chess.SQUARE_NAMES[square] for square in highest)
            text.append(f"\nThe two highest squares are {first} and {second}, not those of this move.")
        return text


def best_move(problem: Problem, logits: Float[Tensor, "64 1"]) -> tuple[chess.Board, chess.Move]:
    """Return the board and the best legal move. Pawns promote to a queen."""
    board = chess.Board(problem.text)
    return board, list(board.legal_moves)[int(_totals(problem, logits).argmax())]


def _totals(problem: Problem, logits: Float[Tensor, "64 1"]) -> Float[Tensor, "moves"]:
    """Return the sum of the scores of the two squares of each legal move; -inf for promotions to other than a queen."""
    scores = logits.reshape(1, SQUARES).float().cpu()
    return Answers.unpack(_packed(problem.text)).totals(scores)[0]


@lru_cache(maxsize=1024)
def _packed(fen: str) -> Int16[Tensor, "1 columns"]:
    """Return all legal moves of a position, packed like the answers of a split, without knowing which is right."""
    board = chess.Board(fen)
    legal = list(board.legal_moves)
    codes = np.array([code_of(move, flip_of(board)) for move in legal], np.int16)
    return pack_ragged(np.array([1]), np.array([len(legal)]), codes)


def _check_squares(placement: str) -> None:
    """Refuse the first field of a FEN unless it describes 8 rows of 8 squares."""
    rows = placement.split("/")
    if len(rows) != 8:
        raise LoopscopeError(f"{len(rows)} rows of squares were given, expected 8 with / between them: {placement}")
    for rank, row in zip(range(8, 0, -1), rows, strict=True):
        for character in row:
            if character not in PIECES + "12345678":
                raise LoopscopeError(
                    f"rank {rank} ({row}) holds {character!r}: expected the pieces {PIECES}, or 1-8 for empty squares"
                )
        squares = sum(int(character) if character.isdigit() else 1 for character in row)
        if squares != 8:
            raise LoopscopeError(f"rank {rank} ({row}) holds {squares} squares, expected 8")
        if re.search("[1-8]{2}", row):
            raise LoopscopeError(f"rank {rank} ({row}) holds two numbers side by side: write their sum")
