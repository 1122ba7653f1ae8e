"""The tensors in a nest of arguments or outputs, each by its path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from loopscope.trees import Tree, children, with_children

Path = tuple[Any, ...]
"""Where a leaf is: keys, positions and field names from the outside in."""


def leaves_by_path(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each leaf of a nest with its path, in a fixed order."""
    parts = children(tree)
    if parts is None:
        yield path, tree
        return
    for key, part in parts.items():
        yield from leaves_by_path(part, (*path, key))


def tensors_by_path(tree: Tree) -> dict[Path, Tensor]:
    """Return the tensors of a nest by their paths."""
    return {path: leaf for path, leaf in leaves_by_path(tree) if isinstance(leaf, Tensor)}


def map_with_path(function: Callable[[Path, Any], Any], tree: Tree, path: Path = ()) -> Tree:
    """Return a nest of the same containers with ``function(path, leaf)`` in each leaf's place."""
    parts = children(tree)
    if parts is None:
        return function(path, tree)
    mapped = {key: map_with_path(function, part, (*path, key)) for key, part in parts.items()}
    # What holds nothing new stays the object that it is: others may hold it too.
    return tree if all(mapped[key] is part for key, part in parts.items()) else with_children(tree, mapped)


def with_leaves(tree: Tree, replaced: Mapping[Path, Any]) -> Tree:
    """Return a nest in which the leaves at some paths are replaced."""
    return map_with_path(lambda path, leaf: replaced.get(path, leaf), tree) if replaced else tree


def worded(path: Path) -> str:
    """Return a path as one would write it: (0, "hidden") is [0].hidden."""
    words = "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in path)
    return words.removeprefix(".")
