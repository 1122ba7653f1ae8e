"""Chess positions that a user types in: what is refused, which move is read from the scores, what is said of it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import chess
import pytest
import torch
from rich.console import Console

from loopscope.answers.answerer import Answerer, answer_all, frames
from loopscope.errors import LoopscopeError
from loopscope.loop import FunctionLoop
from loopscope.reports.answers import answer_lines, show_frames
from loopscope.tasks import Chess
from loopscope.tasks.chess.encoding import PIECES
from loopscope.tasks.chess.text import ChessText
from loopscope.tasks.registry import text_format
from loopscope.tasks.text import Frame, Problem, colour

WORDS = ChessText()
WHITE = "6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1"
"""The rook mates on a8; its king is on g1, so the task shows the board as it stands."""
BLACK = "r5k1/5ppp/8/8/8/8/8/1K6 b - - 0 1"
"""No mate in one; the task turns the board: what stands on e8 is shown on e1."""
TURNED_AND_MIRRORED = "1k5r/ppp5/8/8/8/8/PPP5/1K6 b - - 0 1"
"""The rook mates on h1: turned and mirrored, it goes from a1 to a8."""
PROMOTION = "6k1/3P1ppp/8/8/8/8/8/4K3 w - - 0 1"
QUIET = chess.STARTING_FEN


def scores(**squares: float) -> torch.Tensor:
    """Return scores that are 0 but on squares as the task shows them."""
    logits = torch.zeros(64, 1)
    for name, value in squares.items():
        logits[chess.parse_square(name)] = value
    return logits


def shown(problem: Problem) -> dict[str, str]:
    """Return the pieces that a problem shows, by square."""
    return {
        chess.SQUARE_NAMES[place]: PIECES[code - 1] for place, code in enumerate(problem.tokens.tolist()) if code > 0
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "0 fields were given, expected the 6 of a FEN"),
        ("8/8/8/8/8/8/8/8", "1 fields were given"),
        (WHITE + " e2e4", "7 fields were given"),
        ("6k1/5ppp/8/8/8/8/R5K1 w - - 0 1", "7 rows of squares were given, expected 8"),
        (WHITE.replace("5PPP", "5PPX"), r"rank 2 \(5PPX\) holds 'X': expected the pieces"),
        (WHITE.replace("5PPP", "9"), r"rank 2 \(9\) holds '9'"),
        (WHITE.replace("5PPP", "6PPP"), r"rank 2 \(6PPP\) holds 9 squares, expected 8"),
        (WHITE.replace("5PPP", "32PPP"), r"rank 2 \(32PPP\) holds two numbers side by side"),
        (WHITE.replace(" w ", " white "), "the side to move is 'white', expected w or b"),
        (WHITE.replace("w -", "w qK"), "the castling field is 'qK', expected some of KQkq"),
        (WHITE.replace("- 0", "e5 0"), "the en passant field is 'e5', expected"),
        (WHITE.replace("- 0", "- x"), "the halfmove clock is 'x'"),
        (WHITE.replace("0 1", "0 -1"), "the move number is '-1'"),
        (WHITE.replace("R5K1", "R7"), "white has no king"),
        ("6k1/8/8/8/8/8/8/B5K1 w - - 0 1", "the game is drawn: neither side has enough pieces left to mate"),
        (WHITE.replace("0 1", "150 1"), "the game is drawn: the halfmove clock is 150"),
        (WHITE.replace("6k1", "8"), "black has no king"),
        (WHITE.replace("R5K1", "R4KK1"), "there are more than two kings"),
        (WHITE.replace("R5K1", "R4PK1"), "a pawn stands on rank 1 or 8"),
        (WHITE.replace("w -", "w K"), "a side may castle although its king or rook is not at home"),
        (WHITE.replace("- - 0", "- e6 0"), "no pawn can have just passed"),
        ("R5k1/5ppp/8/8/8/8/8/6K1 w - - 0 1", "the side that is not to move is in check"),
        ("R5k1/5ppp/8/8/8/8/8/6K1 b - - 0 1", "the game is over: black is to move and is mated"),
        ("7k/5Q2/8/8/8/8/8/K7 b - - 0 1", "the game is over: black is to move and is stalemated"),
    ],
)
def test_what_is_no_position_to_solve_is_refused_by_name(text: str, sentence: str) -> None:
    with pytest.raises(LoopscopeError, match=sentence) as refused:
        WORDS.read(text)
    assert "\n" not in str(refused.value)


def test_the_two_numbers_may_be_left_out_and_white_space_does_not_matter() -> None:
    short, spaced = WORDS.read(f"  {WHITE[:-4]}\n"), WORDS.read(WHITE.replace(" ", "  "))
    assert short.text == spaced.text == WHITE
    assert torch.equal(short.tokens, spaced.tokens)


def test_the_example_has_a_mate_in_one() -> None:
    problem = text_format("chess").read(WORDS.example)
    logits = scores(h5=2, f7=1)
    assert WORDS.line(problem, logits) == "Qxf7# (h5f7)"
    assert WORDS.right(problem, logits) is True


def test_a_move_is_wrong_where_it_does_not_mate_and_another_would() -> None:
    problem = WORDS.read(WHITE)
    assert WORDS.line(problem, scores(a1=2, a8=1)) == "Ra8# (a1a8)"
    assert WORDS.right(problem, scores(a1=2, a8=1)) is True
    assert WORDS.line(problem, scores(a1=2, a7=1)) == "Ra7 (a1a7)"
    assert WORDS.right(problem, scores(a1=2, a7=1)) is False


def test_the_rules_cannot_tell_where_no_move_mates() -> None:
    problem = WORDS.read(QUIET)
    assert WORDS.line(problem, scores(e2=1, e4=1)) == "e4 (e2e4)"
    assert WORDS.right(problem, scores(e2=1, e4=1)) is None


def test_only_legal_moves_are_answered() -> None:
    # No move joins the two highest squares; of those that start at a1, b1 is the best target.
    assert WORDS.line(WORDS.read(WHITE), scores(h8=9, a1=8, h7=7, b1=1)) == "Rb1 (a1b1)"


def test_a_board_is_turned_for_black_and_the_move_is_named_on_the_board_that_was_given() -> None:
    problem = WORDS.read(BLACK)
    expected = {"a1": "R", "g1": "K", "f2": "P", "g2": "P", "h2": "P", "b8": "k"}
    assert shown(problem) == expected
    assert WORDS.line(problem, scores(a1=2, a7=1)) == "Ra2 (a8a2)"


def test_a_board_is_mirrored_too_where_the_king_stands_on_its_left_half() -> None:
    problem = WORDS.read(TURNED_AND_MIRRORED)
    pawns = dict.fromkeys(("f2", "g2", "h2"), "P") | dict.fromkeys(("f7", "g7", "h7"), "p")
    assert shown(problem) == {"a1": "R", "g1": "K", "g8": "k"} | pawns
    assert WORDS.line(problem, scores(a1=2, a8=1)) == "Rh1# (h8h1)"
    assert WORDS.right(problem, scores(a1=2, a8=1)) is True


def test_a_pawn_on_the_last_row_becomes_a_queen() -> None:
    # Its king stands on e1: the board is shown as it stands.
    problem = WORDS.read(PROMOTION)
    assert WORDS.line(problem, scores(d7=2, d8=1)) == "d8=Q# (d7d8q)"
    assert WORDS.right(problem, scores(d7=2, d8=1)) is True


def frame(logits: torch.Tensor, since: int = 0, iteration: int = 50) -> Frame:
    return Frame(iteration, logits, torch.tensor([since]), 1e-3, 0.1)


def test_the_picture_is_the_board_as_the_side_to_move_sees_it() -> None:
    picture = WORDS.picture(WORDS.read(WHITE), frame(scores(a1=2, a8=1), since=40))
    lines = picture.plain.splitlines()
    assert lines == [
        "white to move: Ra8# (a1a8)",
        "8 [.] .  .  .  .  .  k  . ",
        "7  .  .  .  .  .  p  p  p ",
        *(f"{rank} " + " . " * 8 for rank in (6, 5, 4, 3)),
        "2  .  .  .  .  .  P  P  P ",
        "1 [R] .  .  .  .  .  K  . ",
        "   a  b  c  d  e  f  g  h ",
    ]
    styles = {(picture.plain[span.start : span.end], str(span.style).strip()) for span in picture.spans}
    assert {("Ra8# (a1a8)", colour(40)), ("[R]", "bold reverse"), ("[.]", "reverse")} <= styles


def test_the_picture_for_black_begins_at_h1_and_names_the_highest_squares_that_are_not_the_moves() -> None:
    picture = WORDS.picture(WORDS.read(TURNED_AND_MIRRORED), frame(scores(a1=2, a8=1, c3=3, d4=4)))
    lines = picture.plain.splitlines()
    assert lines[1] == "1 [.] .  .  .  .  .  K  . "
    assert lines[8:] == [
        "8 [r] .  .  .  .  .  k  . ",
        "   h  g  f  e  d  c  b  a ",
        "The two highest squares are e5 and f6, not those of this move.",
    ]


def mating_loop() -> FunctionLoop:
    """Scores the squares of Rb1 at first; those of Ra8, which mates, gain on them."""
    quiet, mate = scores(a1=2, b1=1), scores(a1=2, a8=1)
    return FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda inputs: quiet.expand(len(inputs), 64, 1).clone(),
        step=lambda state, inputs: state + (mate - state) / 4,
        read=lambda state: state,
    )


ANSWERER = Answerer(Path("runs/chess"), mating_loop(), Chess(), WORDS, None)


def test_frames_say_when_the_move_last_changed() -> None:
    # b1 keeps (3/4)^k: a8 is ahead from the third iteration on.
    found = list(frames(ANSWERER, WORDS.read(WHITE), 1e-4, 100))
    assert [frame.since.unique().tolist() for frame in found[:4]] == [[0], [0], [3], [3]]
    assert found[-1].since.tolist() == [3]


def test_one_or_many_positions_are_answered() -> None:
    (line,) = answer_lines(answer_all(ANSWERER, [WORDS.read(WHITE)], 1e-4, 100))
    assert line.split("\t")[:3] == ["Ra8# (a1a8)", "solved", "settled"]
    console = Console(file=io.StringIO(), width=80)
    show_frames(console, WORDS, WORDS.read(WHITE), frames(ANSWERER, WORDS.read(WHITE), 1e-4, 4))
    said = console.file.getvalue()
    assert said.index("white to move: Rb1 (a1b1)") < said.index("white to move: Ra8# (a1a8)")
    assert "1 [R] .  .  .  .  .  K  . " in said


def test_a_missing_extra_is_one_line_that_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "chess", None)
    monkeypatch.delitem(sys.modules, "loopscope.tasks.chess.text")
    with pytest.raises(LoopscopeError, match=r'pip install "loopscope\[chess\]"') as refused:
        text_format("chess")
    assert "\n" not in str(refused.value)
