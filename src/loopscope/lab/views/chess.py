"""A chess position as a board whose pieces can be moved, with the model's move as an arrow. Importing it needs python-chess."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from loopscope.lab.views.view import Logits, Question, Snapshot, cell, grid, legend, percent, problem_of, title
from loopscope.reports.kit.page import text
from loopscope.tasks.chess.task import Chess
from loopscope.tasks.chess.text import ChessText, best_move

# Imported after the format, whose import refuses a missing package in one line.
import chess  # isort: skip
import chess.svg  # isort: skip

EXAMPLES = {
    ChessText.example: "mate in one: the scholar's mate",
    "6k1/5ppp/8/8/8/8/5PPP/3R2K1 w - - 0 1": "mate in one: the back rank",
    "6rk/6pp/8/6N1/8/8/6PP/6K1 w - - 0 1": "mate in one: smothered",
    "r1bqkb1r/pppp1ppp/2n2n2/4p3/2B1P3/5Q2/PPPP1PPP/RNB1K1NR w KQkq - 4 4": "no mate yet",
}
"""Problems to pick, each with what there is to say of it."""
PIECES = "KQRBNPkqrbnp"
EMPTY = ("Backspace", "Delete", " ", ".")
"""Keys that empty a square."""
SHOWN = 0.02
"""Probability from which a square is tinted."""
MOVED = ' data-moved="use"'
"""What a cell holds that is moved to another one by a second click, as a selector; see page.js."""


class ChessView:
    """The board from the side to move: the likelier a square of the move, the stronger its tint; the legal move is an arrow."""

    part = "square"
    hint = "a position in FEN"
    examples: ClassVar[dict[str, str]] = EXAMPLES
    keys: ClassVar[dict[str, str]] = {**dict(zip("KQRBNPkqrbnp", "♔♕♖♗♘♙♚♛♜♝♞♟", strict=True)), "Delete": "×"}

    def __init__(self) -> None:
        self._text, self._task = ChessText(), Chess()

    def answer(self, question: Question, logits: Logits) -> Int[Tensor, "2"]:
        """Return the two squares of the best legal move."""
        _, move = best_move(problem_of(question), logits)
        return torch.tensor([move.from_square, move.to_square])

    def right(self, question: Question, logits: Logits) -> bool | None:
        """Return True if the move mates, False if only other moves mate, and None if no move mates."""
        return self._text.right(problem_of(question), logits)

    def said(self, question: Question, logits: Logits) -> str:
        """Return the move."""
        return self._text.line(problem_of(question), logits)

    def html(self, question: Question, snapshot: Snapshot | None) -> str:
        """Return the board."""
        problem = problem_of(question)
        board = chess.Board(problem.text)
        side = "white" if board.turn else "black"
        if snapshot is None:
            note = "Move pieces by two clicks, or type K Q R B N P (k q r b n p for black)"
            drawn = grid("chess", title(f"Chess, {side} to move", None, note), _rows(board, {}, ()), MOVED)
            return f'<div class="chessboard">{_PIECES}{drawn}</div>'
        _, move = best_move(problem, snapshot.logits)
        _, unsure = self._task.shown(snapshot.logits[None], self._text.choices(problem))
        sure, changed = 1 - float(unsure[0]), bool(snapshot.changed.any())
        name = self.said(question, snapshot.logits)
        heat = _heat(board, snapshot.logits)
        notes = [f"{name}, {percent(sure)}", "just changed" if changed else ""]
        drawn = grid(
            "chess", text(title(f"Chess, {side} to move", snapshot, *notes)), _rows(board, heat, _ends(move)), MOVED
        )
        arrow = _arrow(move, board.turn, sure, changed)
        key = legend(
            ("heat", "", "likely square of the move"), ("move", "", "the best legal move, paler where less sure")
        )
        caption = f'<p class="move{" changed" if changed else ""}"><b>{text(name)}</b> {percent(sure)}</p>'
        return f'<div class="chessboard">{_PIECES}{drawn}{arrow}</div>{caption}{key}'

    def edited(self, question: Question, place: int, key: str) -> str | None:
        """Return the position with a piece put on a square, or taken from it."""
        board = chess.Board(problem_of(question).text)
        if key in EMPTY:
            board.remove_piece_at(place)
        elif len(key) == 1 and key in PIECES:
            board.set_piece_at(place, chess.Piece.from_symbol(key))
        else:
            return None
        return _fen(board)

    def moved(self, question: Question, origin: int, target: int) -> str | None:
        """Return the position with a piece on another square, whatever the rules of movement; the side to move stays."""
        board = chess.Board(problem_of(question).text)
        piece = board.remove_piece_at(origin)
        if piece is None or origin == target:
            return None
        board.set_piece_at(target, piece)
        return _fen(board)


def _fen(board: chess.Board) -> str:
    board.ep_square = None
    board.castling_rights = board.clean_castling_rights()
    return board.fen()


def _ends(move: chess.Move) -> tuple[int, int]:
    return move.from_square, move.to_square


def _squares(white: bool) -> list[list[int]]:
    """Return the squares as they are seen from one side, rank by rank."""
    up = 1 if white else -1
    return [[chess.square(file, rank) for file in range(8)[::up]] for rank in range(8)[::-up]]


def _heat(board: chess.Board, logits: Logits) -> dict[int, float]:
    """Return the probability of each square as an end of the move, as the softmax over squares has it."""
    from loopscope.tasks.chess.rules import flip_of

    shares = logits[:, 0].softmax(0).nan_to_num(0.0).tolist()
    return {place ^ flip_of(board): share for place, share in enumerate(shares)}


def _rows(board: chess.Board, heat: dict[int, float], ends: tuple[int, ...]) -> list[str]:
    ranks = _squares(board.turn)
    edges = set(ranks[-1]), {rank[0] for rank in ranks}
    return [
        "".join(
            _square(board, square, heat.get(square, 0.0), square in ends, _names(square, *edges)) for square in rank
        )
        for rank in ranks
    ]


def _names(square: int, files: set[int], ranks: set[int]) -> str:
    """Return the names of file and rank that the edge of the board shows on a square."""
    name = chess.square_name(square)
    file = f'<u class="file">{name[0]}</u>' if square in files else ""
    return file + (f'<u class="rank">{name[1]}</u>' if square in ranks else "")


def _square(board: chess.Board, square: int, heat: float, end: bool, names: str) -> str:
    piece, name = board.piece_at(square), chess.square_name(square)
    dark = (chess.square_file(square) + chess.square_rank(square)) % 2 == 0
    who = "empty" if piece is None else f"{'white' if piece.color else 'black'} {chess.piece_name(piece.piece_type)}"
    notes = [who, *(["part of the move"] if end else []), *([f"{100 * heat:.0f}%"] if heat >= SHOWN else [])]
    tint = f'<s style="--heat:{min(1.0, 2 * heat):.2f}"></s>' if heat >= SHOWN else ""
    drawn = "" if piece is None else f'<svg viewBox="0 0 45 45" aria-hidden="true"><use href="#{_name(piece)}"/></svg>'
    kinds = ["square", "deep" if dark else "pale", *(["end"] if end else [])]
    return cell(square, tint + names + drawn, f"{name}: {', '.join(notes)}", *kinds)


def _name(piece: chess.Piece) -> str:
    return f"{'white' if piece.color else 'black'}-{chess.piece_name(piece.piece_type)}"


def _arrow(move: chess.Move, white: bool, sure: float, changed: bool) -> str:
    """Return the move as an arrow over the board."""

    def center(square: int) -> tuple[float, float]:
        file, rank = chess.square_file(square), chess.square_rank(square)
        return (file + 0.5, 7.5 - rank) if white else (7.5 - file, rank + 0.5)

    (x, y), (to_x, to_y) = center(move.from_square), center(move.to_square)
    length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
    along_x, along_y = (to_x - x) / length, (to_y - y) / length
    tip = (to_x - 0.1 * along_x, to_y - 0.1 * along_y)
    neck = (to_x - 0.45 * along_x, to_y - 0.45 * along_y)
    corners = [
        tip,
        (neck[0] - 0.2 * along_y, neck[1] + 0.2 * along_x),
        (neck[0] + 0.2 * along_y, neck[1] - 0.2 * along_x),
    ]
    head = " ".join(f"{a:.3f},{b:.3f}" for a, b in corners)
    return (
        f'<svg class="arrow{" changed" if changed else ""}" viewBox="0 0 8 8" aria-hidden="true" '
        f'style="--sure:{0.35 + 0.65 * sure:.2f}"><line x1="{x:.3f}" y1="{y:.3f}" x2="{neck[0]:.3f}" y2="{neck[1]:.3f}"/>'
        f'<polygon points="{head}"/></svg>'
    )


_PIECES = (
    f'<svg width="0" height="0" class="defs" aria-hidden="true"><defs>{"".join(chess.svg.PIECES.values())}</defs></svg>'
)
"""The drawings of the pieces, which the squares refer to."""
