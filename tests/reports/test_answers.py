"""What ``loopscope solve`` shows of an answer: legible colours, marks of changes, doubts, and since when it has stood."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from loopscope.answers.answerer import Answer, Answerer, answer_all, answer_of, frames
from loopscope.loop import FunctionLoop
from loopscope.reports import answers
from loopscope.reports.answers import answer_lines, arrival_of, candidates_lines, show_frames, show_last
from loopscope.reports.kit.styled_text import styled
from loopscope.tasks import PrefixSums
from loopscope.tasks.prefix_sums.text import PrefixSumsText
from loopscope.tasks.registry import text_format
from loopscope.tasks.text import CHANGED, Candidates, Frame, legend

TASKS = {"prefix-sums": (16, 2), "sudoku": (81, 9), "chess": (64, 1)}
"""Tokens and outputs of the example of each task."""
BACKGROUNDS = ("#000000", "#1e1e1e", "#002b36", "#fdf6e3", "#ffffff")


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG."""
    parts = [value / 255 for value in Color.parse(colour).get_truecolor()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def pictures(task: str) -> list[Text]:
    """Pictures of wrong and of changed answers that settled at all times, with their legend."""
    words = text_format(task)
    problem = words.read(words.example)
    drawn = []
    for seed in range(3):
        logits = torch.randn(TASKS[task], generator=torch.Generator().manual_seed(seed))
        parts = len(words.parts(problem, logits))
        for iteration in (1, 9, 40, 200):
            since = (torch.arange(parts) * 37 + 5 * seed) % (iteration + 1)
            drawn.append(words.picture(problem, Frame(iteration, logits, since, 1e-2, 0.5)))
    return [*drawn, legend(drawn)]


@pytest.mark.parametrize("task", TASKS)
def test_pictures_are_legible_on_light_and_on_dark_terminals(task: str) -> None:
    styles = {Style.parse(str(span.style)) for picture in pictures(task) for span in picture.spans}
    for style in styles:
        assert style.bgcolor is None
        if style.color is not None:
            # The sixteen named colours are whatever the terminal's theme makes of them.
            assert style.color.number is not None
            assert style.color.number >= 16
            assert min(contrast(style.color.name, background) for background in BACKGROUNDS) >= 3
        assert not style.dim


@pytest.mark.parametrize("task", TASKS)
def test_a_page_shows_the_same_picture(task: str) -> None:
    picture = pictures(task)[0]
    shown = styled(picture)
    assert re.sub(r"<[^>]+>", "", shown).replace("&lt;", "<").replace("&gt;", ">") == picture.plain


def test_what_changed_in_the_last_iteration_is_marked() -> None:
    words = text_format("sudoku")
    problem = words.read(words.example)
    since = torch.full((81,), 3)
    since[[2, 80]] = 7
    picture = words.picture(problem, Frame(7, torch.zeros(81, 9), since, 1e-2, 0.5))
    assert picture.plain.count(CHANGED) == 2
    assert picture.plain.splitlines()[1] == "| 1 1 1*| 1 1 1 | 1 1 1 |"
    assert f"{CHANGED} in this one" in legend([picture]).plain
    words = PrefixSumsText()
    since = torch.tensor([1, 2, 2, 0])
    drawn = words.picture(words.read("1101"), Frame(2, torch.zeros(4, 2), since, 1e-2, 0.5)).plain
    assert drawn.splitlines() == ["bits  1101", "sums  0000", "       **"]


def test_the_least_certain_cells_are_listed_with_their_candidates() -> None:
    words = text_format("sudoku")
    problem = words.read(words.example)
    logits = torch.full((81, 9), -20.0)
    logits[:, 4] = 0.0
    logits[0, 7] = 0.0  # a given cell, which is not in doubt
    logits[2, [4, 7, 8]] = torch.tensor([0.6, 0.3, 0.1]).log()
    logits[72, [4, 0]] = torch.tensor([0.25, 0.75]).log()
    least = words.candidates(problem, logits, 3)
    assert candidates_lines(least[:2]) == ["row 1, column 3: 5 60%, 8 30%, 9 10%", "row 9, column 1: 1 75%, 5 25%"]
    assert least[2].place != "row 1, column 1"
    for part in least:
        assert sum(share for _, share in part.shares) == pytest.approx(1)


def test_a_certain_part_is_not_called_a_hundred_percent() -> None:
    assert candidates_lines([Candidates("sum 1", (("1", 1 - 1e-9), ("0", 1e-9)))]) == ["sum 1: 1 over 99%"]


def delayed(changes: dict[int, int]) -> Answerer:
    """A model of bits whose first sum becomes what ``changes`` says at each iteration, and whose state never settles."""

    def read(state: torch.Tensor) -> torch.Tensor:
        now = int(state[0, 0])
        last = [value for iteration, value in changes.items() if iteration <= now]
        sums = torch.zeros(state.shape[0], state.shape[1], 2)
        sums[..., 0] = 1.0
        sums[:, 0, last[-1] if last else 0] = 2.0
        return sums

    loop = FunctionLoop(
        encode=lambda inputs: inputs,
        start=lambda inputs: inputs.squeeze(-1) * 0,
        step=lambda state, inputs: state + 1,
        read=read,
    )
    return Answerer(Path("runs/delayed"), loop, PrefixSums(), PrefixSumsText())


def test_an_answer_says_since_when_it_has_stood_also_among_many() -> None:
    answerer = delayed({2: 1, 4: 0, 7: 1})
    problem = answerer.text.read("100")
    *_, last = frames(answerer, problem, 1e-4, 20)
    answer = answer_of(answerer, problem, last, 1e-4)
    assert (answer.settled, answer.since) == (False, 7)
    assert arrival_of(answer).endswith("but the answer has not changed since iteration 7.")
    console = Console(file=io.StringIO(), width=200)
    show_last(console, answerer.text, problem, frames(answerer, problem, 1e-4, 20))
    (among, _) = answer_all(answerer, [problem, answerer.text.read("111")], 1e-4, 20)
    assert among == answer
    (line,) = answer_lines([among])
    assert line.split("\t")[6] == "7"
    (short,) = answer_all(answerer, [problem], 1e-4, 7)
    assert arrival_of(short).endswith("and the answer changed in the last one.")
    (first,) = answer_all(delayed({}), [problem], 1e-4, 7)
    assert arrival_of(first).endswith("but the answer never changed.")


def test_a_state_that_is_not_finite_is_named() -> None:
    answer = Answer("1", None, False, 12, float("inf"), 0.5, 3)
    assert arrival_of(answer) == "Its state was no longer finite after 12 iterations."


def test_problems_leave_a_batch_when_they_settle_and_keep_their_answers() -> None:
    """The state of each problem shrinks at its own rate, so that they settle at different times."""
    loop = FunctionLoop(
        encode=lambda inputs: inputs.squeeze(-1) + 0.5,
        start=torch.ones_like,
        step=lambda state, bits: bits + (state - bits) * (0.2 + 0.6 * bits.mean(1, keepdim=True)),
        read=lambda state: torch.stack([0.5 - state, state - 0.5], -1),
    )
    answerer = Answerer(Path("runs/rates"), loop, PrefixSums(), PrefixSumsText())
    problems = [answerer.text.read(text) for text in ("0001", "0111", "0000")]
    together = answer_all(answerer, problems, 1e-4, 500)
    assert len({answer.iterations for answer in together}) == 3
    for problem, answer in zip(problems, together, strict=True):
        *_, last = frames(answerer, problem, 1e-4, 500)
        alone = answer_of(answerer, problem, last, 1e-4)
        assert (alone.line, alone.iterations, alone.since) == (answer.line, answer.iterations, answer.since)
        assert alone.residual == pytest.approx(answer.residual, rel=1e-4)


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_shows_confidence_and_doubts_within_eighty_columns(terminal: bool, monkeypatch) -> None:
    monkeypatch.setattr(answers, "PAUSE", 0.0)
    answerer = delayed({2: 1, 4: 0})
    problem = answerer.text.read("1" * 70)
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system="256", highlight=False)
    show_frames(console, answerer.text, problem, frames(answerer, problem, 1e-4, 5))
    said = console.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said)
    assert re.search(r"iteration 4, residual \S+, confidence \d+\.\d\d%", plain)
    assert re.search(r"least certain:\s+sum \d+: [01] \d+%", plain)
    assert max(len(line) for line in re.split(r"[\r\n]", plain)) <= 80
    # Neither white nor grey of a fixed kind: SGR 30, 37, 90, 97.
    assert not re.search(r"\x1b\[(?:\d+;)*(?:30|37|90|97)[;m]", said)
