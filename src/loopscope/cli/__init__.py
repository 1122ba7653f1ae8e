"""The command line: ``main.py`` finds and runs a command; each command has a file of its own, with its parser."""

from loopscope.cli.main import entry, main

__all__ = ["entry", "main"]
