"""``loopscope adapt``: turn a third-party looped model into a loop, and print the proof that the two are the same."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.subject import PROVEN, adapted, add_model_options
from loopscope.parsing import new_parser
from loopscope.trees import select


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Turn a third-party looped model into a loop, and print the proof that the two are the same: what was compared, and "
        "how large the error was. A model of a known family is recognized by its class; for any other, --at names the call "
        "that is one iteration. loopscope examine, forecast and exits take the same options."
    )
    parser.add_argument(
        "subject",
        help="hf:FOLDER_OR_NAME, or package.module:name of a torch.nn.Module or of a function without arguments that returns one. "
        "Its module is looked for in the current folder first; importing it runs its code.",
    )
    add_model_options(parser)
    return parser


def run(options: Namespace) -> int:
    """Adapt a model and print the proof; return the exit status."""
    from loopscope.adapters.captured import CapturedLoop

    subject = adapted(options)
    loop: Any = subject.loop
    print(loop.proof if isinstance(loop, CapturedLoop) else loop.prove(select(subject.inputs, slice(0, PROVEN))))
    return 0


COMMAND = Command(make_parser, run)
