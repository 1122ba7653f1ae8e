"""``loopscope solve``: answer problems with a trained model."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from loopscope.cli.command import Command
from loopscope.errors import LoopscopeError, check_positive, check_tolerance
from loopscope.parsing import new_parser
from loopscope.tasks.text import Problem, TextFormat


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Answer problems with a trained model: a sudoku of 81 characters, the FEN of a chess position, or a string of "
        "bits. The command fails if the rules refute an answer. In a FEN, the side to move is the one to find a move for; "
        "Lichess's puzzle files give the position one move earlier."
    )
    parser.add_argument(
        "run",
        help="Folder of a trained run; or prefix-sums, sudoku or chess for the model that ships with the package.",
    )
    parser.add_argument("problem", help="The problem, quoted; or - to read one per line and write one answer per line.")
    parser.add_argument("--watch", action="store_true", help="Show the answer change, iteration by iteration.")
    parser.add_argument("--max-iterations", type=int, default=500, help="Largest number of iterations for a problem.")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="Relative residual at which a state has settled.")
    return parser


def run(options: Namespace) -> int:
    """Answer one problem, or those of standard input; return the exit status."""
    from loopscope.answers.answerer import answer_all, answer_of, frames, open_answerer
    from loopscope.reports.answers import answer_lines, show_answer, show_frames, show_last

    check_tolerance(options.tolerance)
    check_positive(max_iterations=options.max_iterations)
    limits = (options.tolerance, options.max_iterations)
    answerer = open_answerer(options.run, options.tolerance)
    if options.problem == "-":
        if options.watch:
            raise LoopscopeError("--watch shows one problem, not those of standard input: give one problem")
        answers = answer_all(answerer, _typed_in(answerer.text), *limits)
        for line in answer_lines(answers):
            print(line)
        return 1 if any(answer.right is False for answer in answers) else 0
    problem = answerer.text.read(options.problem)
    out = Console(highlight=False)
    show_form = show_frames if options.watch else show_last
    last = show_form(out, answerer.text, problem, frames(answerer, problem, *limits))
    answer = answer_of(answerer, problem, last, options.tolerance)
    show_answer(out, answerer, answer)
    return 1 if answer.right is False else 0


def _typed_in(form: TextFormat) -> list[Problem]:
    """Return the problems of standard input, one per line.

    Raises:
        LoopscopeError: there are none, or a line is not a problem.
    """
    problems = []
    for number, text in enumerate(sys.stdin, 1):
        if text.strip():
            try:
                problems.append(form.read(text))
            except LoopscopeError as error:
                raise LoopscopeError(f"line {number}: {error}") from error
    if not problems:
        raise LoopscopeError(f"standard input holds no problem: expected one per line, such as {form.example}")
    return problems


COMMAND = Command(make_parser, run)
