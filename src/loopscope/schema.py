"""Conversion between typed results and plain JSON values: check a value against a type, build it, and write it back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from loopscope.errors import LoopscopeError

T = TypeVar("T")

WORDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    NoneType: "null",
}
SHOWN = 40
"""Largest number of characters of a wrong value that a message shows."""
PLAIN: dict[Any, Any] = {tuple: list, Sequence: list, Mapping: dict}
"""Types of plain JSON values, by abstract type."""


def misfit(value: Any, kind: Any, name: str = "it") -> str | None:
    """Return what is wrong with a plain JSON value, or None if it has the expected type.

    Args:
        value: the value.
        kind: the expected type: str, bool, int, float (which accepts whole numbers), None, Any, a Literal, an enumeration (by
            its values), a list, tuple, dict or union of these, or a dataclass. A dataclass stands for a mapping with its
            fields, in which only fields with defaults may be missing.
        name: the name of the value in the message.

    Example:
        >>> misfit({"train": "x"}, dict[str, float])
        "train is 'x', expected a number"
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        found = [misfit(value, one, name) for one in inner]
        return None if None in found else found[0]
    if origin is Literal:
        return None if value in inner else _unexpected(value, " or ".join(map(str, inner)), name)
    if is_dataclass(origin):
        return _misfit_of_fields(value, origin, name)
    if isinstance(origin, type) and issubclass(origin, Enum):
        options = [one.value for one in origin]
        return None if value in options else _unexpected(value, " or ".join(map(str, options)), name)
    fixed = origin is tuple and inner and inner[-1] is not Ellipsis
    origin = PLAIN.get(origin, origin)
    accepted = (int, float) if origin is float else origin
    if origin is not Any and (not isinstance(value, accepted) or (isinstance(value, bool) and origin is not bool)):
        return _unexpected(value, WORDS[origin], name)
    if not inner:
        return None
    if fixed:
        if len(value) != len(inner):
            return _unexpected(value, f"a list of {len(inner)}", name)
        pairs = zip(inner, value, strict=True)
        return next(
            (said for i, (one, entry) in enumerate(pairs) if (said := misfit(entry, one, _inside(name, i)))), None
        )
    entry_kind = next(one for one in reversed(inner) if one is not Ellipsis)
    entries = value.items() if origin is dict else enumerate(value)
    return next((said for key, entry in entries if (said := misfit(entry, entry_kind, _inside(name, key)))), None)


def from_plain(value: Any, kind: type[T], name: str = "it") -> T:
    """Build a value of a type, such as a dataclass, from plain JSON values.

    Args:
        value: a value read from JSON, or returned by ``to_plain``.
        kind: the type, as for ``misfit``.
        name: the name of the value in the error message.

    Raises:
        LoopscopeError: the value does not have the type; the message names the first part that is wrong.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     x: float
        ...     y: float = 0.0
        >>> from_plain({"x": 1.0}, Point)
        Point(x=1.0, y=0.0)
    """
    if (wrong := misfit(value, kind, name)) is not None:
        raise LoopscopeError(wrong)
    built: T = _built(value, kind)
    return built


def to_plain(value: Any) -> Any:
    """Return a value as plain JSON values.

    Dataclasses become mappings, enumerations become their values, tensors and tuples become lists, complex numbers become
    [real, imaginary], and NaN and infinity become None.

    Example:
        >>> to_plain({"radius": (0.5, float("nan")), "eigenvalue": 1j})
        {'radius': [0.5, None], 'eigenvalue': [0.0, 1.0]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if isinstance(value, complex):
        return [to_plain(value.real), to_plain(value.imag)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _built(value: Any, kind: Any) -> Any:
    """Build a value that ``misfit`` has found to have the type."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return _built(value, next(one for one in inner if misfit(value, one) is None))
    if is_dataclass(origin):
        kinds = get_type_hints(origin)
        return origin(**{name: _built(entry, kinds[name]) for name, entry in value.items()})  # type: ignore[operator]
    if isinstance(origin, type) and issubclass(origin, Enum):
        return origin(value)
    if not inner or origin is Literal:
        return value
    if origin is tuple:
        every = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_built(entry, one) for entry, one in zip(value, every, strict=True))
    if isinstance(value, dict):
        return {key: _built(entry, inner[-1]) for key, entry in value.items()}
    return [_built(entry, inner[-1]) for entry in value]


def _misfit_of_fields(value: Any, kind: Any, name: str) -> str | None:
    if not isinstance(value, dict):
        return _unexpected(value, WORDS[dict], name)
    kinds = get_type_hints(kind)
    for field in fields(kind):
        if field.name in value:
            said = misfit(value[field.name], kinds[field.name], _inside(name, field.name))
        else:
            needed = field.default is MISSING and field.default_factory is MISSING
            said = f"{_inside(name, field.name)} is missing" if needed else None
        if said is not None:
            return said
    unknown = [key for key in value if key not in kinds]
    return f"{_inside(name, unknown[0])} is unknown" if unknown else None


def _inside(name: str, key: object) -> str:
    return str(key) if name == "it" else f"{name}.{key}"


def _unexpected(value: Any, expected: str, name: str) -> str:
    shown = repr(value)
    return f"{name} is {shown if len(shown) <= SHOWN else f'{shown[:SHOWN]}...'}, expected {expected}"
