"""Parsers of settings. Numbers are read literally, and every mistake is reported in one line."""

from __future__ import annotations

import re
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from loopscope.errors import LoopscopeError

LARGEST = 2**63 - 1
"""The largest integer that a setting may have, since libraries store integers in 64 bits."""
BASE_60 = re.compile(r"(?<![\w.:])[-+]?\d[\d_]*(?::[0-5]?\d)+(?:\.\d*)?(?![\w:])")
"""A number in base 60 as in YAML 1.1, where 1:30 is 90."""


def new_parser(description: str = "") -> ArgumentParser:
    """Return an empty parser that raises errors instead of exiting and does not accept abbreviated options."""
    return ArgumentParser(exit_on_error=False, allow_abbrev=False, description=description)


def add_settings(parser: ArgumentParser, kind: type[Any], name: str) -> None:
    """Add the fields of a dataclass to a parser as the options --name.field."""
    parser.add_class_arguments(kind, name)
    for action in parser._actions:
        if action.option_strings == [f"--{name}"]:
            action.help = (
                SUPPRESS  # it would read a file without the checks of settings; ``parse_arguments`` refuses it
            )


def parse_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Return what a parser reads from a command line.

    Raises:
        ArgumentError: an argument is refused.
        LoopscopeError: a number is too large or in base 60, or a group of settings is given a single value.
    """
    try:
        parsed = parser.parse_args(list(arguments))
    except OverflowError as error:  # an integer of hundreds of digits for an option that takes a float
        name = next(name for name, text in _options(arguments) if re.search(r"\d{300,}", text))
        raise LoopscopeError(f"{name}: expected a number that fits in 64 bits") from error
    command = f"{parsed.task}." if "task" in parsed else ""  # options of a subcommand are named without its name
    values = {name.removeprefix(command): value for name, value in dotted(parsed.as_dict()).items()}
    groups = {name.partition(".")[0] for name in values if "." in name}
    for name, _ in _options(arguments):
        if name in groups:
            raise LoopscopeError(f"--{name} is a group of options: give them one by one, as --{name}.NAME VALUE")
    _check_integers(values)
    _check_base_60(_options(arguments), values)
    return parsed


def parse_mapping(parser: ArgumentParser, values: Mapping[str, Any]) -> Namespace:
    """Return what a parser reads from nested settings.

    Raises:
        ArgumentError: a setting is refused.
        LoopscopeError: a number is too large or in base 60.
    """
    flat = dotted(values)
    _check_integers(flat)
    parsed = parser.parse_object(dict(values))
    _check_base_60(flat.items(), dotted(parsed.as_dict()))
    return parsed


def dotted(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as a flat mapping with dotted names.

    Example:
        >>> dotted({"model": {"norm": "pre", "width": 16}})
        {'model.norm': 'pre', 'model.width': 16}
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of a command line, without their dashes, and their values."""
    for place, word in enumerate(arguments):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            following = arguments[place + 1] if place + 1 < len(arguments) else ""
            yield name.replace("-", "_"), value if equals else following


def _check_integers(values: Mapping[str, Any]) -> None:
    """Refuse integers that do not fit in 64 bits.

    Raises:
        LoopscopeError: an integer is too large; the message names the setting.
    """
    for name, value in values.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int) and abs(number) > LARGEST:
                raise LoopscopeError(f"{name} is {number}, expected an integer of at most {LARGEST}")


def _check_base_60(given: Iterable[tuple[str, Any]], values: Mapping[str, Any]) -> None:
    """Refuse numbers written in base 60, which nobody intends.

    Args:
        given: the settings as written.
        values: the settings as parsed.

    Raises:
        LoopscopeError: a number is in base 60; the message names the setting.
    """
    for name, text in given:
        if isinstance(text, list | tuple):
            _check_base_60([(name, part) for part in text], values)
        elif isinstance(text, str) and BASE_60.search(text):
            understood = values.get(name)
            if isinstance(understood, int | float | list | tuple) and not isinstance(understood, bool):
                raise LoopscopeError(f"{name}: expected numbers in base 10, got {text}")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a parser's error message into one line."""
    try:
        yield
    except ArgumentError as error:
        raise LoopscopeError(tidy(str(error))) from error


def tidy(message: str) -> str:
    """Return a parser's message on one line, with types named plainly.

    Example:
        >>> tidy("Expected a <class 'int'>. Got value: many")
        'expected int, got many'
    """
    message = re.sub(r"(Got|Given) value:$", r"\1 value: ''", " ".join(message.split()))
    message = re.sub(r"<class '([\w.]+)'>", r"\1", message)
    message = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", message)
    message = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .* Given value: ",
        lambda match: f"expected {' or '.join(kind for kind in match[1].split(', ') if kind != 'NoneType')}, got ",
        message,
    )
    message = re.sub(r"Expected an? (.*?)\. Got value: ", r"expected \1, got ", message)
    message = re.sub(r"expected tuple(?:\[.*?\])?, got (.*)$", lambda match: _expected_list(match[1]), message)
    message = re.sub(r"Exceeds the limit \(\d+ digits\).*$", "expected a number that fits in 64 bits", message)
    return re.sub(r'^Parser key "([\w.]+)": ', r"\1: ", message)


def _expected_list(given: str) -> str:
    """Return the message for a value where a list is expected, with the list that was probably meant."""
    plain = re.fullmatch(r"[\w.-]+(,[\w.-]+)*", given)
    return f"expected a list in brackets, such as {f'[{given}]' if plain else '[1,2]'}, got {given}"
