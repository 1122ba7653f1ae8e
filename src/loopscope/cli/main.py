"""The entry point: finds a command, runs it, and turns whatever happens into an exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import TYPE_CHECKING

from loopscope.errors import LoopscopeError, nearest

if TYPE_CHECKING:
    from loopscope.cli.command import Command

CRASHED = 70
"""Exit status of a crash: the system's code for an internal software error (EX_SOFTWARE)."""

COMMANDS = {
    "data": "Find, check and describe a task's data.",
    "train": "Train one model on one task.",
    "solve": "Answer a problem that you type in.",
    "evaluate": "Measure accuracy against the number of iterations.",
    "lab": "Open a page where you can watch a loop think.",
    "trust": "Measure what tells right answers from wrong ones.",
    "adapt": "Turn a third-party looped model into a loop, and print the proof that the two are the same.",
    "forecast": "Predict whether a loop keeps its answers far beyond training, from few iterations.",
    "exits": "Compare rules that stop a loop early.",
    "examine": "Measure stability and give a verdict, for a run or any loop.",
    "study": "Train, evaluate and examine a grid of runs, and write one report.",
}
"""The commands, each with its summary. The module ``loopscope.cli.NAME`` defines a command as ``COMMAND``."""


UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM)
"""Errors of the system that say that a name given by the user cannot be used."""


def shortened(message: str) -> str:
    """Return a message with the middle left out of words of hundreds of characters, such as endless numbers.

    Example:
        >>> len(shortened("unknown command " + 5000 * "x"))
        119
    """
    return re.sub(r"\S{300,}", lambda word: f"{word[0][:80]}...{word[0][-20:]}", message)


def load_command(name: str) -> Command:
    """Import and return a command.

    Raises:
        LoopscopeError: there is no such command; the nearest one is offered.
    """
    if name not in COMMANDS:
        raise LoopscopeError(f"unknown command {name!r}{nearest(name, COMMANDS)}; see loopscope --help")
    command: Command = import_module(f"loopscope.cli.{name}").COMMAND
    return command


def help_text() -> str:
    """Return what ``loopscope --help`` prints."""
    return "\n".join(
        [
            "usage: loopscope COMMAND ...",
            "",
            "Build, train and examine looped transformers.",
            "",
            "commands:",
            *(f"  {name:10} {summary}" for name, summary in COMMANDS.items()),
            "",
            "loopscope COMMAND --help lists the options of a command and their defaults.",
            "loopscope --version prints the version.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    The statuses are 0 done, 1 failed, 2 bad input, 75 stopped and resumable, 130 interrupted.

    Args:
        arguments: the words after ``loopscope``; those of this process if left out.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        print(f"loopscope {metadata.version('loopscope')}")
        return 0
    try:
        name, *rest = arguments
        command = load_command(name)
        # Imported here: the parser loads jsonargparse, which --help and a mistyped command do without.
        from loopscope.cli.arguments import parse

        return command.run(parse(command, name, rest))
    except BrokenPipeError:
        # The reader of our output has gone (as under `| head`). Python must not flush to it again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except LoopscopeError as error:
        print(f"loopscope: {shortened(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in UNUSABLE or error.filename is None:
            raise
        print(f"loopscope: cannot use {shortened(str(error.filename))}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loopscope: interrupted", file=sys.stderr)
        return 130


def entry() -> int:
    """Run ``main`` for the shell; a crash gets a status that no failed command has."""
    try:
        return main()
    except Exception:
        traceback.print_exc()
        print(
            "loopscope: unexpected error; unless it comes from your own code, please report the lines above",
            file=sys.stderr,
        )
        return CRASHED
