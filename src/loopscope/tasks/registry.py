"""The registry of tasks by name. A new task is registered here and nowhere else."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loopscope.errors import LoopscopeError, check_choice
from loopscope.tasks.chess.task import Chess
from loopscope.tasks.data.report import Reporter
from loopscope.tasks.prefix_sums.task import PrefixSums
from loopscope.tasks.sudoku.grids import digit
from loopscope.tasks.sudoku.small import SmallSudoku
from loopscope.tasks.sudoku.task import Sudoku
from loopscope.tasks.text import TextFormat

AnyTask = PrefixSums | SmallSudoku | Sudoku | Chess


@dataclass(frozen=True)
class Registration:
    """A task with its text format and report, which are imported on first use because they may need extra packages.

    Args:
        task: class of the task, whose ``name`` commands and configs use.
        about: what a problem and its answer are, in plain words, for readers of reports.
        text: "module:name" of the class that reads problems and shows answers; None if problems cannot be typed in.
        board: "module:name" of the class that draws problems and answers in the lab; None for a strip or grid of tokens.
        symbol: how an output is written where there is no board; its number by default.
        report: "module:name" of the function behind ``loopscope data``; None if the data are generated from a seed.
    """

    task: type[AnyTask]
    about: str
    text: str | None = None
    board: str | None = None
    symbol: Callable[[int], str] = str
    report: str | None = None


REGISTRATIONS = (
    Registration(
        PrefixSums,
        about="A problem is a string of bits. The answer says for each place whether the number of ones up to there is odd (1) "
        "or even (0). Longer strings are harder: the last place depends on every bit before it.",
        text="loopscope.tasks.prefix_sums.text:PrefixSumsText",
        board="loopscope.lab.views.bits:BitsView",
    ),
    Registration(
        SmallSudoku,
        about="A problem is a small sudoku, such as a board of six by six. The answer fills its empty cells so that no row, "
        "column or box holds a digit twice. More empty cells are harder.",
        symbol=digit,
    ),
    Registration(
        Sudoku,
        about="A problem is a sudoku: a board of nine by nine with some digits given. The answer fills the empty cells so that "
        "every row, column and box holds each digit once. Puzzles that singles solve are easy; the more guesses a search "
        "needs, the harder the puzzle.",
        text="loopscope.tasks.sudoku.text:SudokuText",
        board="loopscope.lab.views.sudoku:SudokuView",
        report="loopscope.tasks.sudoku.report:sudoku_report",
    ),
    Registration(
        Chess,
        about="A problem is a chess position in which one move is best. The answer is that move, given by its two squares. "
        "Puzzles with a higher rating are harder.",
        text="loopscope.tasks.chess.text:ChessText",
        board="loopscope.lab.views.chess:ChessView",
        report="loopscope.tasks.chess.report:chess_report",
    ),
)

TASKS: dict[str, type[AnyTask]] = {entry.task.name: entry.task for entry in REGISTRATIONS}
"""The tasks by the names that commands and configs give them."""

_ABOUT = {entry.task.name: entry.about for entry in REGISTRATIONS}
_TEXTS = {entry.task.name: entry.text for entry in REGISTRATIONS if entry.text}
_BOARDS = {entry.task.name: entry.board for entry in REGISTRATIONS if entry.board}
_SYMBOLS = {entry.task.name: entry.symbol for entry in REGISTRATIONS}
_REPORTS = {entry.task.name: entry.report for entry in REGISTRATIONS if entry.report}

REPORTED = tuple(_REPORTS)
"""The tasks whose data ``loopscope data`` prepares."""


def task_class(name: str) -> type[AnyTask]:
    """Return the task of this name.

    Raises:
        LoopscopeError: there is no such task; the message offers the nearest name.
    """
    check_choice("task", name, TASKS)
    return TASKS[name]


def about_task(name: str) -> str:
    """Return what a problem of a task and its answer are, in plain words.

    Raises:
        LoopscopeError: there is no such task.
    """
    check_choice("task", name, TASKS)
    return _ABOUT[name]


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def has_text_format(task: str) -> bool:
    """Return whether the problems of a task can be typed in."""
    return task in _TEXTS


def check_can_be_typed_in(task: str) -> None:
    """Refuse a task whose problems cannot be typed in.

    Raises:
        LoopscopeError: the task has no text format; the message names the tasks that have one.
    """
    if task not in _TEXTS:
        raise LoopscopeError(
            f"problems of {task} cannot be typed in, only those of {', '.join(_TEXTS)}: use loopscope evaluate or examine "
            f"for models of {task}"
        )


def text_format(task: str) -> TextFormat:
    """Return the text format of a task's problems and answers.

    Raises:
        LoopscopeError: the task's problems cannot be typed in, or a package that the format needs is not installed.
    """
    check_can_be_typed_in(task)
    found: TextFormat = _load(_TEXTS[task])()
    return found


def board_of(task: str) -> Any:
    """Return what draws a task's problems and answers in the lab, a ``loopscope.lab.views.view.Board``; None if the task has none.

    Raises:
        LoopscopeError: a package that the board needs is not installed.
    """
    return _load(_BOARDS[task])() if task in _BOARDS else None


def symbol_of(task: str) -> Callable[[int], str]:
    """Return the function that says how an output of a task's models is written.

    Example:
        >>> symbol_of("small-sudoku")(0)
        '1'
    """
    return _SYMBOLS[task]


def reporter_of(task: str) -> Reporter:
    """Return the function that reports on a task's data; see ``Reporter``.

    Raises:
        LoopscopeError: the task reads no data, so there is nothing to prepare.
    """
    if task not in _REPORTS:
        raise LoopscopeError(
            f"the data of {task} are generated from a seed when they are needed, so there is nothing to prepare: "
            f"loopscope data is for {' and '.join(_REPORTS)}"
        )
    found: Reporter = _load(_REPORTS[task])
    return found
