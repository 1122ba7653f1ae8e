"""``loopscope lab``: a local page where you can watch a loop think."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.cli.console import say
from loopscope.parsing import new_parser


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
        "a trained run; or package.module:function, which returns (loop, inputs) or a loopscope.lab.Exhibit. All shipped "
        "models by default.",
    )
    parser.add_argument("--port", type=int, default=7860, help="Port of the page; 0 takes any free one.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="Address to serve on. By default, only this machine can reach it."
    )
    return parser


def run(options: Namespace) -> int:
    """Serve the page until it is interrupted; return the exit status."""
    from loopscope.extras import check_installed

    check_installed("gradio", "the lab")
    from loopscope.lab.exhibits import open_exhibit, shipped_names
    from loopscope.lab.server import LOOPBACK, check_address, serve

    check_address(options.host, options.port)
    exhibits = [open_exhibit(name) for name in options.subjects or shipped_names()]
    if options.host not in LOOPBACK:
        say(f"anyone who can reach {options.host} can use the page, and keep this machine busy")
    serve(exhibits, options.host, options.port, lambda address: say(f"the lab is open at {address} (Ctrl-C closes it)"))
    say("closed")
    return 0


COMMAND = Command(make_parser, run)
