"""``loopscope lab``: a local page where you can watch a loop think."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import say
from loopscope.cli.lab_models import is_model, open_model
from loopscope.cli.subject import add_model_options, refuse_model_options
from loopscope.errors import check_positive
from loopscope.parsing import new_parser

if TYPE_CHECKING:
    from loopscope.lab import Exhibit


def make_parser() -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        "Open a page in the browser where you can watch a model solve problems iteration by iteration, push its state, change "
        "its question, and continue its run for thousands of iterations. Everything is served from this "
        "machine. Given package.module:function, the command runs that code from the current folder."
    )
    parser.add_argument(
        "subjects",
        nargs="*",
        help="What to show: sudoku, chess, prefix-sums, or prefix-sums-without-recall for a model that ships; the folder of "
        "a trained run; package.module:function, which returns (loop, inputs) or a loopscope.lab.Exhibit; or a third-party "
        "model, hf:FOLDER_OR_NAME or package.module:name with --inputs, adapted as by loopscope examine. All shipped models "
        "by default.",
    )
    parser.add_argument("--port", type=int, default=7860, help="Port of the page; 0 takes any free one.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="Address to serve on. By default, only this machine can reach it."
    )
    parser.add_argument(
        "--trained-iterations",
        type=int | None,
        help="Largest number of iterations used in training; by default what the run or the function says.",
    )
    add_model_options(parser)
    return parser


def run(options: Namespace) -> int:
    """Serve the page until it is interrupted; return the exit status."""
    from loopscope.extras import check_installed

    check_installed("gradio", "the lab")
    from loopscope.lab.exhibits import shipped_names
    from loopscope.lab.server import LOOPBACK, check_address, serve

    check_address(options.host, options.port)
    names = options.subjects or list(shipped_names())
    if not any(is_model(options, name) for name in names):
        refuse_model_options(options, names[0])
    exhibits = [_opened(options, name) for name in names]
    if options.host not in LOOPBACK:
        say(f"anyone who can reach {options.host} can use the page, and keep this machine busy")
    serve(exhibits, options.host, options.port, lambda address: say(f"the lab is open at {address} (Ctrl-C closes it)"))
    say("closed")
    return 0


def _opened(options: Namespace, name: str) -> Exhibit:
    from loopscope.lab.exhibits import open_exhibit

    shown = open_model(options, name) if is_model(options, name) else open_exhibit(name)
    given = options.trained_iterations
    if given is None:
        return shown
    check_positive(trained_iterations=given)
    return replace(shown, trained_iterations=given)


COMMAND = Command(make_parser, run)
