"""Whether a value that was read from a file is of the type that it is to have, and what is wrong where it is not."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
"""Characters of a wrong value that are shown."""


def misfit(value: Any, kind: Any, name: str = "it") -> str | None:
    """Return what is wrong with a plain value, as JSON gives it, or None where it is of a type.

    Args:
        value: the value.
        kind: str, bool, int, float (whole numbers are numbers too), None, Any, a Literal, a list or dict of such, a union
            of such, or a dataclass, whose fields a mapping is to have, and no others, but for those with defaults.
        name: what the value is called in the answer, such as "seconds.train is 'x', expected a number".
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        found = [misfit(value, one, name) for one in inner]
        return None if None in found else found[0]
    if origin is Literal:
        return None if value in inner else _unexpected(value, " or ".join(map(str, inner)), name)
    if is_dataclass(origin):
        return _misfit_of_fields(value, origin, name)
    plain = (int, float) if origin is float else origin
    if origin is not Any and (not isinstance(value, plain) or (isinstance(value, bool) and origin is not bool)):
        return _unexpected(value, WORDS[origin], name)
    if not inner:
        return None
    entries = value.items() if origin is dict else enumerate(value)
    return next((said for key, entry in entries if (said := misfit(entry, inner[-1], _inside(name, key)))), None)


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
