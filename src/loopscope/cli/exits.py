"""``loopscope exits``: compare early-exit rules for a run, or for any loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import say, show
from loopscope.cli.subject import add_subject, is_foreign, subject_of, with_trained_iterations
from loopscope.errors import LoopscopeError, check_choice, check_positive
from loopscope.parsing import new_parser

if TYPE_CHECKING:
    from loopscope.subjects import Subject

ENDINGS = (".html", ".json")


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Compare rules that stop a loop: a fixed number of iterations, the residual, changes of the softmax, patience, a learned "
        "gate, several random starts. Every orbit runs once. The output says what each rule would have saved, and which one "
        "to use."
    )
    add_subject(parser)
    parser.add_argument(
        "--split", type=str | None, help="Split of a run's data, such as '512 bits'; by default the easy one."
    )
    parser.add_argument("--examples", type=int, default=256, help="Largest number of inputs to use.")
    parser.add_argument(
        "--iterations",
        type=int | None,
        help="Iterations of each orbit; by default four times the training iterations, or 64 if unknown.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of a random first state.")
    parser.add_argument("--out", type=str | None, help="Also write a page (.html) or all numbers (.json).")
    return parser


def run(options: Namespace) -> int:
    """Compare the rules; return the exit status."""
    from loopscope.reports.early_exit import exits_sheet, write_exits
    from loopscope.reports.kit.sheet import in_terminal
    from loopscope.stability.early_exit.exits import exits
    from loopscope.subjects import first_examples

    check_positive(examples=options.examples)
    out = None if options.out is None else Path(options.out)
    if out is not None:
        check_choice("the file's ending", out.suffix, ENDINGS)
    subject = first_examples(_subject(options), options.examples)
    compared = exits(
        subject.loop,
        subject.inputs,
        subject.targets,
        iterations=options.iterations,
        trained_iterations=subject.trained_iterations,
        seed=options.seed,
        answers=subject.answers,
    )
    show(in_terminal(exits_sheet(options.subject, compared)))
    print(compared)
    if out is not None:
        write_exits(out, compared, options.subject)
        say(f"written: {out}")
    return 0


def _subject(options: Namespace) -> Subject:
    """Return what the options name: on one split of a run's data, or any subject."""
    from loopscope.subjects import from_run

    if options.split is None:
        return subject_of(options)
    if is_foreign(options) or not Path(options.subject).is_dir():
        raise LoopscopeError(
            f"--split is for the folder of a trained run, which {options.subject} is not: leave it out"
        )
    return with_trained_iterations(from_run(Path(options.subject), options.split), options)


COMMAND = Command(make_parser, run)
