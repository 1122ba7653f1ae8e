"""Parsing a command's arguments: every mistake becomes one line that names what was expected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from loopscope.cli.command import Command
from loopscope.errors import LoopscopeError, check_choice, nearest
from loopscope.parsing import parse_arguments, tidy

PATHS = ("--out", "--config", "--compare", "--text", "--inputs")
"""Options that name a file or a folder."""


def parse_duration(text: str) -> float:
    """Return the seconds in a duration such as 90, 30s, 9m, 2h or 1h30m.

    Raises:
        LoopscopeError: the text is not a duration.

    Example:
        >>> parse_duration("1h30m")
        5400.0
    """
    # A number after another part needs its unit: "1h30" would read as 30 seconds where minutes are meant.
    given = text.strip()
    match = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", f"{given}s" if given.isdecimal() else given)
    if not match or not any(match.groups()):
        raise LoopscopeError(f"{text!r} is not a duration: expected one such as 90, 30s, 9m or 1h30m")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(3600 * hours + 60 * minutes + rest)


def parse(command: Command, name: str, arguments: Sequence[str]) -> Namespace:
    """Return the options of a command, built into the classes that its parser names.

    Args:
        command: the command.
        name: its name, for messages.
        arguments: what follows the name on the command line.

    Raises:
        LoopscopeError: an argument is refused; for an unknown option the message names the nearest valid one.
    """
    parser = command.make_parser()
    parser.prog = f"loopscope {name}"
    for choices in _subcommands(parser):
        for task, subparser in choices.items():
            subparser.prog = f"{parser.prog} {task}"
    _check_paths(arguments)
    _check_task(name, parser, arguments)
    try:
        parsed = parse_arguments(parser, arguments)
        expanded = command.expand(parsed, arguments)
        if expanded is not arguments:
            parsed = parse_arguments(parser, expanded)
        return parser.instantiate(parsed)
    except ArgumentError as error:
        raise LoopscopeError(_explain(error, parser, arguments)) from error


def _explain(error: ArgumentError, parser: ArgumentParser, arguments: Sequence[str]) -> str:
    message = tidy(str(error))
    unknown = [part for part in message.split() if part.startswith("--")] if "nrecognized" in message else []
    if not unknown:
        return message
    name = unknown[0].split("=")[0]
    from loopscope.training.settings import REPLACED  # only a refusal needs it

    hint = REPLACED.get(name.removeprefix("--"))
    return f"unknown option {name}{f': {hint}' if hint else nearest(name, _option_names(parser, arguments))}"


def _option_names(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Return the options of a parser, and those of the subcommands that the arguments name."""
    names = [name for action in parser._actions for name in action.option_strings]
    for choices in _subcommands(parser):
        names += [name for key in choices if key in arguments for name in _option_names(choices[key], arguments)]
    return names


def _subcommands(parser: ArgumentParser) -> list[dict[str, Any]]:
    return [action.choices for action in parser._actions if isinstance(action.choices, dict)]


def _check_paths(arguments: Sequence[str]) -> None:
    """Refuse an option for a file or folder that is given an empty text, as by an unset shell variable.

    Raises:
        LoopscopeError: the value is refused; the message names the option.
    """
    for option in PATHS:
        if f"{option}=" in arguments or (option, "") in pairwise(arguments):
            raise LoopscopeError(f"{option} is empty: give it a name, or leave the option out")


def _check_task(name: str, parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuse an unknown word, or an option, where a command expects a task.

    Raises:
        LoopscopeError: naming the nearest task, or the right order.
    """
    tasks = next(iter(_subcommands(parser)), None)
    given = arguments[0] if arguments else ""
    if not tasks or not given or given in parser._option_string_actions:
        return
    if given.startswith("-"):
        task = next((word for word in arguments if word in tasks), "TASK")
        raise LoopscopeError(
            f"{given} is given before the task, which must come first: loopscope {name} {task} {given} ..."
        )
    check_choice("task", given, tasks)
