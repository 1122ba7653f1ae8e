"""What the boards show: well-formed HTML, a label for every cell, and every mark where it belongs."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch
from lab_loops import drawn, inputs, letters, rotating, with_recall

from loopscope.errors import LoopscopeError
from loopscope.lab import exhibit
from loopscope.lab.exhibits import open_exhibit
from loopscope.lab.session import Session
from loopscope.lab.stage import stage
from loopscope.lab.views.view import Snapshot, confidence, tokens_answer

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


class Page(HTMLParser):
    """The cells of a piece of HTML, whose elements must be closed in order."""

    VOID = ("br", "img", "input")

    def __init__(self, source):
        super().__init__()
        self.open, self.cells, self.labels, self.text = [], {}, [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if "aria-label" in attrs:
            self.labels.append(attrs["aria-label"])
        if attrs.get("role") == "gridcell":
            self.cells[int(attrs["data-place"])] = (attrs["aria-label"], set(attrs["class"].split()))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def logits_of(answer, outputs, sure=5.0):
    """Return logits whose largest output of each token is its answer."""
    return sure * torch.nn.functional.one_hot(torch.tensor(answer), outputs).float()


def shown(name, text, logits, changed=()):
    """Return the board of a shipped model's view for given logits."""
    opened = open_exhibit(name)
    question = opened.read(text)
    marks = torch.zeros(len(opened.view.answer(question, logits)), dtype=torch.bool)
    marks[list(changed)] = True
    return Page(opened.view.html(question, Snapshot(7, logits, marks))), opened.view, question


def test_a_sudoku_marks_givens_changes_and_broken_rules():
    digits = [int(digit) - 1 for digit in SOLUTION]
    digits[2], digits[80] = 7, 0  # an 8 beside the eights of its column and box, and a given that is not kept
    page, view, question = shown("sudoku", PUZZLE, logits_of(digits, 9), changed=[3])
    assert len(page.cells) == 81
    assert page.cells[0] == ("row 1, column 1: 5, given", {"cell", "given"})
    label, kinds = page.cells[2]
    assert label == "row 1, column 3: 8, 95% sure, breaks a rule"
    assert "wrong" in kinds
    assert page.cells[3] == ("row 1, column 4: 6, 95% sure, just changed", {"cell", "answer", "changed"})
    assert page.cells[80][0] == "row 9, column 9: 1, 95% sure, the given 9 is not kept"
    assert page.cells[41] == ("row 5, column 6: 3, given", {"cell", "given"})
    assert page.labels[0].startswith("Sudoku, iteration 7. 1 cell just changed. ")
    assert view.right(question, logits_of(digits, 9)) is False
    assert view.right(question, logits_of([int(digit) - 1 for digit in SOLUTION], 9)) is True


def test_bits_mark_wrong_sums():
    page, view, question = shown("prefix-sums", "1101", logits_of([1, 0, 1, 1], 2), changed=[1])
    assert page.cells[0] == ("bit 1: 1, sum so far 1, 99% sure", {"cell", "bit", "answer"})
    assert page.cells[1][1] == {"cell", "bit", "answer", "changed"}
    assert page.cells[2] == ("bit 3: 0, sum so far 1, 99% sure, wrong", {"cell", "bit", "answer", "wrong"})
    assert view.right(question, logits_of([1, 0, 0, 1], 2)) is True


@pytest.mark.parametrize("side", ["w", "b"])
def test_a_chess_board_shows_the_move_from_the_side_to_move(side):
    fen = f"6k1/5ppp/8/8/8/8/r4PPP/3R2K1 {side} - - 0 1"
    opened = open_exhibit("chess")
    question = opened.read(fen)
    board = Page(opened.view.html(question, None))
    assert list(board.cells)[:2] == ([56, 57] if side == "w" else [7, 6])
    assert board.cells[3][0] == "d1: white rook"
    session = Session([opened])
    session.ask(fen)
    session.step(20)
    snapshot = session.lanes[0].snapshot(20)
    page = Page(opened.view.html(question, snapshot))
    ends = {place for place, (_, kinds) in page.cells.items() if "end" in kinds}
    assert ends == set(opened.view.answer(question, snapshot.logits).tolist())
    if side == "w":
        assert ends == {3, 59}
        assert "Rd8# (d1d8)" in page.text
        assert opened.view.right(question, snapshot.logits) is True


@pytest.mark.parametrize(
    ("name", "text", "place", "key", "wanted"),
    [
        ("sudoku", PUZZLE, 2, "4", PUZZLE[:2] + "4" + PUZZLE[3:]),
        ("sudoku", PUZZLE, 0, "Delete", "." + PUZZLE[1:]),
        ("sudoku", PUZZLE, 2, "x", None),
        ("sudoku", PUZZLE, 2, "Click", None),
        ("prefix-sums", "1101", 1, "Click", "1001"),
        ("prefix-sums", "1101", 2, "1", "1111"),
        ("prefix-sums", "1101", 2, "7", None),
        ("chess", "6k1/5ppp/8/8/8/8/5PPP/3R2K1 w - - 0 1", 27, "N", "6k1/5ppp/8/8/3N4/8/5PPP/3R2K1 w - - 0 1"),
        ("chess", "6k1/5ppp/8/8/8/8/5PPP/3R2K1 w - - 0 1", 3, "Delete", "6k1/5ppp/8/8/8/8/5PPP/6K1 w - - 0 1"),
        ("chess", "6k1/5ppp/8/8/8/8/5PPP/3R2K1 w - - 0 1", 3, "z", None),
    ],
)
def test_a_key_on_a_board_changes_the_problem(name, text, place, key, wanted):
    opened = open_exhibit(name)
    assert opened.view.edited(opened.read(text), place, key) == wanted


def test_a_piece_moves_to_another_square_and_castling_goes_with_the_king():
    opened = open_exhibit("chess")
    question = opened.read("4k3/8/8/8/8/8/8/4K2R w K - 0 1")
    assert opened.view.moved(question, 4, 12) == "4k3/8/8/8/8/8/4K3/7R w - - 0 1"
    assert opened.view.moved(question, 5, 12) is None
    assert opened.view.moved(question, 4, 4) is None


def test_an_edit_that_makes_no_problem_is_refused_and_changes_nothing():
    session = Session([open_exhibit("sudoku")])
    session.ask(PUZZLE)
    with pytest.raises(LoopscopeError, match="row 1 holds the digit 5 more than once"):
        session.edit(0, 2, "5")
    assert session.text == PUZZLE
    assert session.edit(0, 2, "4")
    assert session.text == PUZZLE[:2] + "4" + PUZZLE[3:]
    assert not session.edit(0, 2, "Shift")


def test_tokens_of_any_loop_are_a_strip_or_a_grid():
    session = Session([exhibit(*with_recall())])
    session.step(5)
    page = Page(stage(session))
    assert [label.split(",")[0] for label, _ in page.cells.values()] == ["token 1: 0", "token 2: 1", "token 3: 2"]
    session = Session([exhibit(*with_recall(), columns=2, word=lambda output: "<abcd>"[output])])
    session.step(5)
    source = stage(session)
    assert Page(source).cells[0][0].startswith("token 1: <,")  # escaped in the source
    assert source.count('role="row"') == 2


def test_a_text_is_typed_in_and_its_answer_is_spelled():
    session = Session([letters()])
    session.ask("a cab")
    session.step(12)
    page = Page(stage(session))
    assert [label.split(": ")[1].split(",")[0] for label, _ in page.cells.values()] == list("a cab")
    with pytest.raises(LoopscopeError, match="'x' is not a letter of this model"):
        session.ask("xylophone")
    with pytest.raises(LoopscopeError, match="no text was given: expected a text of the letters a to h"):
        session.ask("  ")


def test_the_users_own_function_draws_the_answer():
    session = Session([drawn()])
    session.step(3)
    assert '<div class="board own"><em>largest 0</em></div>' in stage(session)


def test_targets_tell_right_from_wrong():
    session = Session([exhibit(*with_recall())])
    lane = session.lanes[0]
    assert lane.exhibit.view.right(lane.own.question, inputs()[0]) is True
    assert lane.exhibit.view.right(lane.own.question, inputs()[1]) is False
    assert Session([exhibit(*rotating())]).lanes[0].exhibit.view.right(lane.own.question, inputs()[0]) is None


def test_logits_that_are_not_numbers_answer_nothing_with_no_confidence():
    logits = torch.tensor([[torch.nan, 1.0], [0.0, 3.0]])
    assert tokens_answer(logits).tolist() == [-1, 1]
    assert confidence(logits) == [0.0, 0.953]
    assert tokens_answer(torch.tensor([[2.0], [-2.0]])).tolist() == [1, 0]


@pytest.mark.parametrize("name", ["sudoku", "chess", "prefix-sums"])
def test_each_example_of_a_view_is_a_problem(name):
    opened = open_exhibit(name)
    for text in opened.examples:
        assert opened.read(text).text
        Page(opened.view.html(opened.read(text), None))


def test_what_the_user_calls_a_loop_is_escaped():
    session = Session([exhibit(*with_recall(), name="<script>alert(1)</script>")])
    assert "<script>" not in stage(session)
