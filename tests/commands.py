"""Commands as a user gives them, for the tests of several of them."""

from __future__ import annotations

from loopscope.cli import main


def refusal(capsys, arguments):
    """Return the one line that a command says when it refuses."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("loopscope: ")
    return line
