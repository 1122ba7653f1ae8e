"""YAML without surprises: no repeated keys, no numbers in base 60, no values that contain themselves."""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_DEPTH = 100
"""Largest number of nested levels in a file. Settings need three."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2. It refuses keys that are given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice: remove one of the two", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _StrictDumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes strings that are numbers in YAML 1.2, such as 1e5."""


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"

_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_WHOLE = re.compile(r"^(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)$")
_REAL = re.compile(
    r"^(?:[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
for _either in (_StrictLoader, _StrictDumper):
    _either.add_implicit_resolver(_INT, _WHOLE, list("-+0123456789"))
    _either.add_implicit_resolver(_FLOAT, _REAL, list("-+0123456789."))


def _check_depth(node: yaml.Node, above: tuple[yaml.Node, ...] = ()) -> None:
    if node in above:
        raise yaml.YAMLError("a value contains itself (an alias inside its own anchor): write it out")
    if len(above) >= MAX_DEPTH:
        raise yaml.YAMLError(f"values are nested more than {MAX_DEPTH} deep: settings need three levels")
    parts = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    for part in parts:
        if not isinstance(part, yaml.ScalarNode):
            _check_depth(part, (*above, node))


def dump(value: Any) -> str:
    """Return a YAML document that ``load`` reads back as the same value.

    Args:
        value: None, booleans, numbers, strings, and lists and dictionaries of these.

    Raises:
        yaml.YAMLError: the value has another type.

    Example:
        >>> print(dump({"path": "1e5", "steps": 10}), end="")
        path: '1e5'
        steps: 10
    """
    return yaml.dump(value, Dumper=_StrictDumper, sort_keys=False)


def load(text: str) -> Any:
    """Return the value of a YAML document.

    Args:
        text: one YAML document.

    Raises:
        yaml.YAMLError: the text is not YAML, repeats a key, is nested too deeply, or holds a value that contains itself.
        ValueError: a number has too many digits to be read.

    Example:
        >>> load("steps: 10")
        {'steps': 10}
        >>> load("time: 1:30")
        {'time': '1:30'}
    """
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_depth(node)
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError(f"values are nested more than {MAX_DEPTH} deep: settings need three levels") from error
    finally:
        loader.dispose()
