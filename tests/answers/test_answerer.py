"""Problems that a user types in: what is refused, what is answered, and what is said of the answer."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refusal
from rich.console import Console

from loopscope.answers.answerer import (
    Answer,
    Answerer,
    answer_all,
    answer_of,
    frames,
    open_answerer,
)
from loopscope.answers.trust import AnswerSignals, joined
from loopscope.cli import main
from loopscope.errors import LoopscopeError
from loopscope.files import read_json
from loopscope.loop import FunctionLoop
from loopscope.models import build_model
from loopscope.reports.answers import answer_lines, show_frames, show_last, track_record
from loopscope.shipped import MODELS
from loopscope.tasks import PrefixSums, Sudoku
from loopscope.tasks.prefix_sums.text import PrefixSumsText
from loopscope.tasks.registry import text_format
from loopscope.tasks.sudoku.text import SudokuText
from loopscope.tasks.text import GIVEN, WRONG, Frame, colour
from loopscope.training.run_folder import RunFolder, open_run
from loopscope.training.settings import settings_from

PUZZLE = SudokuText.example
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def parity_loop() -> FunctionLoop:
    """Moves one bit's share of the running sum a place further each iteration: 32 bits take 31 iterations."""

    def step(state: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        return (bits + torch.nn.functional.pad(state, (1, 0))[:, :-1]) % 2

    return FunctionLoop(
        encode=lambda inputs: inputs.squeeze(-1) + 0.5,
        start=torch.clone,
        step=step,
        read=lambda state: torch.stack([0.5 - state, state - 0.5], -1),
    )


def sudoku_loop(solution: str) -> FunctionLoop:
    """Goes half of the way to a grid that it knows, whatever is asked."""
    logits = torch.nn.functional.one_hot(torch.tensor([int(digit) - 1 for digit in solution]), 9).float()
    return FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda inputs: inputs[..., 1:],
        step=lambda state, inputs: (state + logits) / 2,
        read=lambda state: state,
    )


BITS = Answerer(Path("runs/bits"), parity_loop(), PrefixSums(), PrefixSumsText())


def sudoku(solution: str = SOLUTION) -> Answerer:
    return Answerer(Path("runs/sudoku"), sudoku_loop(solution), Sudoku(), SudokuText())


@pytest.mark.parametrize(
    ("task", "text", "sentence"),
    [
        ("prefix-sums", "0121", "'2' at place 3 is not a bit"),
        ("prefix-sums", " ", "no bits were given"),
        ("sudoku", PUZZLE[:-1], "80 cells were given, expected 81"),
        ("sudoku", PUZZLE.replace("9", "x", 1), "'x' at place 14 is not a cell"),
        ("sudoku", "55" + PUZZLE[2:], "row 1 holds the digit 5 more than once"),
        ("sudoku", "5" + PUZZLE[1:9] + "5" + PUZZLE[10:], "column 1 holds the digit 5 more than once"),
        # The first two cells of row 1 can only be 9 (row 1 lacks 8 and 9, column 1 and 2 hold 8).
        ("sudoku", "..1234567" + "8" + "." * 8 + "..." + "." * 6 + "." * 54, "the puzzle has no solution"),
    ],
)
def test_impossible_problems_are_refused_by_name(task: str, text: str, sentence: str) -> None:
    with pytest.raises(LoopscopeError, match=sentence):
        text_format(task).read(text)


def test_a_framed_board_is_read_as_its_cells() -> None:
    rows = [PUZZLE[9 * i : 9 * i + 9] for i in range(9)]
    drawn = "\n".join(f"| {row[:3]} | {row[3:6]} | {row[6:]} |" for row in rows)
    assert SudokuText().read(drawn).text == PUZZLE


def test_answers_come_in_order_whatever_their_lengths() -> None:
    texts = ["1101", "1", "0110", "10101010101010101010"]
    problems = [BITS.text.read(text) for text in texts]
    answers = answer_all(BITS, problems, 1e-4, 500)
    assert [answer.line for answer in answers] == ["1001", "1", "0100", "11001100110011001100"]
    assert all(answer.right and answer.settled for answer in answers)
    single = list(frames(BITS, problems[3], 1e-4, 500))[-1]
    assert answer_of(BITS, problems[3], single, 1e-4) == answers[3]


@pytest.mark.parametrize("iterations", [1, 3, 10, 500])
def test_a_problem_has_one_answer_alone_or_among_others(iterations) -> None:
    """Unsettled answers change from step to step: both must be those of the same one."""
    shipped = open_answerer("prefix-sums")
    problem = shipped.text.read("11010001110101100011010101110001")
    *_, last = frames(shipped, problem, 1e-4, iterations)
    (among,) = answer_all(shipped, [problem], 1e-4, iterations)
    alone = answer_of(shipped, problem, last, 1e-4)
    assert (among.line, among.right, among.iterations) == (alone.line, alone.right, alone.iterations)
    assert among.unsure == pytest.approx(alone.unsure, rel=0.05, abs=1e-6)


def test_an_unsettled_answer_is_that_of_the_last_iteration_not_of_the_smallest_residual() -> None:
    problem = BITS.text.read("1101000111010110001101010111000111")
    shown = list(frames(BITS, problem, 1e-4, 40))
    residuals = [frame.residual for frame in shown]
    assert any(later > earlier for earlier, later in pairwise(residuals))
    for frame in shown:
        (answer,) = answer_all(BITS, [problem], 1e-4, frame.iteration)
        assert answer == answer_of(BITS, problem, frame, 1e-4)


def test_too_few_iterations_are_not_settled_and_wrong() -> None:
    (answer,) = answer_all(BITS, [BITS.text.read("1" * 40)], 1e-4, 5)
    assert (answer.right, answer.settled, answer.iterations) == (False, False, 5)


def test_frames_say_when_each_bit_last_changed() -> None:
    shown = list(frames(BITS, BITS.text.read("10000000"), 1e-4, 500))
    assert shown[-1].since.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert shown[-1].residual <= 1e-4 < shown[-2].residual


def test_a_grid_is_right_if_it_keeps_the_rules_and_the_givens() -> None:
    words, problem = SudokuText(), SudokuText().read(PUZZLE)

    def right(digits: str) -> bool:
        logits = torch.nn.functional.one_hot(torch.tensor([int(digit) - 1 for digit in digits]), 9).float()
        return words.right(problem, logits)

    swapped = SOLUTION.translate(str.maketrans("12", "21"))
    assert right(SOLUTION)
    assert not right(swapped)  # keeps the rules, not the givens
    assert not right(SOLUTION[:-1] + "1")
    # Any completion counts where there are several.
    assert words.right(words.read("." * 81), torch.nn.functional.one_hot(problem.tokens.long() * 0, 9).float()) is False


def test_the_picture_marks_givens_and_breaches() -> None:
    words, problem = SudokuText(), SudokuText().read(PUZZLE)
    wrong = SOLUTION[:2] + "5" + SOLUTION[3:]
    logits = torch.nn.functional.one_hot(torch.tensor([int(digit) - 1 for digit in wrong]), 9).float()
    picture = words.picture(problem, Frame(50, logits, torch.full((81,), 40), 1e-3, 0.1))
    styles = {(str(picture.plain[span.start : span.end]), str(span.style)) for span in picture.spans}
    assert ("5", WRONG) in styles
    assert ("3", GIVEN) in styles
    assert ("6", colour(40)) in styles
    assert picture.plain.count("\n") == 12


def test_what_is_said_of_an_answer() -> None:
    console = Console(file=io.StringIO(), width=80)
    answerer = sudoku()
    problem = answerer.text.read(PUZZLE)
    last = show_last(console, answerer.text, problem, frames(answerer, problem, 1e-4, 500))
    answer = answer_of(answerer, problem, last, 1e-4)
    assert answer.right
    assert track_record(answerer, answer) is None  # the rules have judged it
    assert track_record(answerer, replace(answer, right=False)) is None
    assert track_record(BITS, replace(answer, right=None)).endswith("loopscope trust runs/bits does.")
    show_frames(console, answerer.text, problem, frames(answerer, problem, 1e-4, 500))
    assert console.file.getvalue().count(", residual ") == 1 + 5  # the last; then 1, 2, 4, 8 and the last


def evidence_of(settled: bool, unsure: np.ndarray, right: np.ndarray) -> AnswerSignals:
    settling = np.full(len(right), 9.0 if settled else math.inf)
    return AnswerSignals(right, right, unsure, unsure, unsure, unsure, settling, right, unsure, right, unsure)


def test_a_doubtful_answer_does_not_inherit_the_record_of_the_sure_ones() -> None:
    sure = evidence_of(True, np.full(100, 1e-3), np.ones(100, dtype=bool))
    doubtful = evidence_of(True, np.full(50, 0.5), np.arange(50) < 6)
    unsettled = evidence_of(False, np.full(40, 0.5), np.zeros(40, dtype=bool))
    answerer = replace(BITS, evidence=joined([sure, doubtful, unsettled]), iterations=500)

    def said(settled: bool, unsure: float) -> str:
        alike = answerer.calibrations.alike(settled, unsure)
        return track_record(answerer, Answer("", None, settled, 500, 1e-5, unsure, 9, alike))

    assert said(True, 0.5) == (
        "Answers like this one, which settled at a confidence near 50.00%, were right 6 of 50 times in validation: a chance of "
        "about 12% (6 to 24%)."
    )
    assert "100 of 100 times in validation: a chance of about 100% (96 to 100%)" in said(True, 1e-3)
    assert said(True, 1e-9) == said(True, 1e-3).replace(
        "99.90%", "over 99.99%"
    )  # more confident than any in validation
    assert "had not settled at a confidence near 50.00%, were right 0 of 40 times" in said(False, 0.5)
    few = replace(answerer, evidence=sure)
    assert few.calibrations.alike(False, 0.5) is None
    assert track_record(few, Answer("", None, False, 500, 1e-5, 0.5, 9)) == (
        "Too few answers had not settled in validation to say how often such answers are right."
    )
    assert "nothing is known of one that was stopped earlier" in track_record(
        answerer, Answer("", None, False, 20, 1e-2, 0.5, 9)
    )


def test_many_answers_get_the_chance_of_answers_like_them_too() -> None:
    """As one answer alone does; nothing is said where the rules decide, or where validation has too few."""
    doubtful = evidence_of(True, np.full(50, 0.5), np.arange(50) < 6)
    sure = evidence_of(True, np.full(100, 1e-3), np.ones(100, dtype=bool))
    found = replace(BITS, evidence=joined([sure, doubtful]), iterations=500).calibrations
    answers = [
        Answer("a", None, True, 9, 1e-5, 0.5, 9, found.alike(True, 0.5)),
        Answer("b", None, True, 9, 1e-5, 1e-3, 9, found.alike(True, 1e-3)),
        Answer("c", None, False, 500, 1e-2, 0.5, 9, found.alike(False, 0.5)),
        Answer("d", False, True, 9, 1e-5, 0.5, 9),
    ]
    assert [line.split("\t")[5] for line in answer_lines(answers)] == ["12%", "100%", "", ""]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run of an untrained model."""
    settings = settings_from(
        {
            "task": "prefix-sums",
            "model": {"width": 8, "heads": 2},
            "data": {"strings": 20, "test_strings": 5},
            "training": {"compile": False},
        }
    )
    run = open_run(tmp_path / "run", settings, resume=False)
    torch.manual_seed(0)
    build_model(settings.model).save_pretrained(run.model)
    return run


def test_the_command_answers_one_and_many(run: RunFolder, capsys, monkeypatch) -> None:
    assert main(["solve", str(run.path), "110101", "--max-iterations", "20"]) in (0, 1)
    said = capsys.readouterr().out
    assert "bits  110101" in said
    monkeypatch.setattr("sys.stdin", io.StringIO("1101\n\n11\n"))
    assert main(["solve", str(run.path), "-"]) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split("\t")[0]) for line in lines] == [4, 2]
    assert all(len(line.split("\t")) == 7 for line in lines)


def test_an_untrained_model_is_called_wrong(run: RunFolder, capsys) -> None:
    assert main(["solve", str(run.path), "1011100111010100101", "--max-iterations", "3"]) == 1
    assert "Wrong: the rules refute this answer." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["11", "--tolerance", "0"], "tolerance is 0, expected a number between 0 and 1, such as 1e-4"),
        (["11", "--tolerance", "1000"], "tolerance is 1000, expected a number between 0 and 1, such as 1e-4"),
        (["-", "--tolerance", "1"], "tolerance is 1, expected a number between 0 and 1, such as 1e-4"),
        (["-", "--watch"], "--watch shows one problem"),
        (["-"], "line 2: 'x' at place 1 is not a bit"),
        (["12"], "'2' at place 2 is not a bit"),
    ],
)
def test_mistakes_are_one_line(run: RunFolder, arguments: list[str], sentence: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("11\nx\n"))
    assert main(["solve", str(run.path), *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_evidence_is_that_of_its_own_tolerance_alone(run: RunFolder, capsys) -> None:
    assert main(["trust", str(run.path), "--iterations", "3"]) == 0
    answerer = open_answerer(str(run.path))
    assert len(answerer.evidence) == sum(split["all"]["examples"] for split in read_json(run.trust)["splits"].values())
    assert answerer.iterations == 3
    other = open_answerer(str(run.path), 1e-3)
    assert other.evidence is None
    assert track_record(other, Answer("", None, True, 3, 1e-5, 0.1, 2)) == (
        "How often answers that settle at a tolerance of 0.001 are right was not measured."
    )
    run.trust.write_text("{}")
    assert "trust.json is damaged (settings is missing): run loopscope trust again" in refusal(
        capsys, ["solve", run.path, "1101"]
    )


def test_the_chance_of_a_chess_move_is_that_of_the_move_shown(capsys, monkeypatch) -> None:
    quiet = "r1bqkbnr/pppp1ppp/2n5/4p3/4P3/5N2/PPPP1PPP/RNBQKB1R w KQkq - 2 3"
    assert main(["solve", "chess", quiet]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"were right [\d,]+ of [\d,]+ times in validation: a chance of about \d+% \(\d+ to \d+%\)\.", said)
    monkeypatch.setattr("sys.stdin", io.StringIO(quiet + "\n"))
    assert main(["solve", "chess", "-"]) == 0
    chance = re.search(r"about (\d+%)", said)[1]
    assert capsys.readouterr().out.strip().split("\t")[5] == chance


SHIPPED_PROBLEMS = {
    "prefix-sums": ("11010001110101100011010101110001", "10011110100110111101100110100001"),
    "sudoku": (PUZZLE, SOLUTION),
    "chess": ("r1bqkb1r/pppp1ppp/2n2n2/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq - 4 4", "Qxf7# (h5f7)"),
}


@pytest.mark.parametrize("task", SHIPPED_PROBLEMS)
def test_what_ships_answers_at_once_and_says_how_far_to_trust_it(task: str, capsys) -> None:
    problem, answer = SHIPPED_PROBLEMS[task]
    assert main(["solve", task, problem]) == 0
    said = capsys.readouterr().out
    assert f"\n{answer}\n" in said
    assert "Solved, and confirmed by the rules." in said
    assert "in validation" not in said  # the rules have judged it


def test_every_shipped_model_has_its_card_and_is_small() -> None:
    folders = sorted(folder for folder in MODELS.iterdir() if folder.is_dir())
    assert [folder.name for folder in folders] == sorted(SHIPPED_PROBLEMS)
    for folder in folders:
        assert (folder / "model" / "model.safetensors").stat().st_size < 2_000_000
        card = (folder / "card.md").read_text()
        assert "## Accuracy" in card
        assert "## Examination" in card
        assert len(open_answerer(folder.name).evidence) > 0


@pytest.mark.parametrize(
    ("task", "data", "page", "elsewhere"),
    [
        ("sudoku", "from the same generator; on other makers' puzzles accuracy differs", "data.md", ["35.5%", "50.7%"]),
        ("chess", "higher below than on a natural sample", "chess-data.md", ["59.0%", "91.5%", "73.0%", "44.0%"]),
    ],
)
def test_a_card_says_what_its_accuracy_is_of(task: str, data: str, page: str, elsewhere: list[str]) -> None:
    """Accuracy on a model's own data is not that on other data, which the guide gives, for chess by rating."""
    card = (MODELS / task / "card.md").read_text()
    assert data in card
    assert "on held-out problems of the data above; on other data, accuracy can differ widely" in card
    assert f"docs/guides/{page}" in card
    guide = (Path(__file__).parents[2] / "docs" / "guides" / page).read_text()
    assert all(f"| {figure} |" in guide for figure in elsewhere)


def test_a_task_without_a_shipped_model_is_named(capsys, monkeypatch, tmp_path) -> None:
    (tmp_path / "chess").mkdir()
    monkeypatch.setattr("loopscope.shipped.MODELS", tmp_path)
    assert main(["solve", "sudoku", PUZZLE]) == 2
    assert (
        "no model for the task sudoku ships with the package, only for chess: give a run's folder"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("by_name", [True, False])
def test_a_task_that_nobody_types_in_is_refused_by_its_name_and_with_a_run(by_name: bool, tmp_path, capsys) -> None:
    settings = settings_from(
        {"task": "small-sudoku", "model": {"width": 8, "heads": 2}, "training": {"compile": False}}
    )
    small = open_run(tmp_path / "small", settings, resume=False)
    build_model(settings.model).save_pretrained(small.model)
    said = refusal(capsys, ["solve", "small-sudoku" if by_name else small.path, "1" * 36])
    assert "problems of small-sudoku cannot be typed in, only those of prefix-sums, sudoku, chess:" in said
    # Neither a task of another rule nor a run, which would be refused as well.
    assert "did you mean" not in said
    assert "give a run's folder" not in said
