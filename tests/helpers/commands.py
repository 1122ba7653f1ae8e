"""Commands as a user gives them, and what they write, for the tests of several of them."""

from __future__ import annotations

from loopscope.cli import main
from loopscope.files import numbered_lines


def refusal(capsys, arguments):
    """Return the one line that a command says when it refuses."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("loopscope: ")
    return line


def read_lines(path):
    """Return the rows of a file of JSON lines."""
    return [row for _, row in numbered_lines(path)]
