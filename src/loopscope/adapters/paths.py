"""Tensors in nested arguments or outputs, addressed by their paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.trees import Tree, children, with_children

Path = tuple[Any, ...]
"""Path of a leaf: keys, positions and field names, outermost first."""


@dataclass(frozen=True)
class Blank:
    """A placeholder for a tensor of which only shape and precision are needed.

    Attributes:
        sizes: size of each dimension; the size per example for a dimension that grows with the batch.
        grows: whether each dimension grows with the batch.
        like: scalar of the same precision on the same device.
    """

    sizes: tuple[int, ...]
    grows: tuple[bool, ...]
    like: Tensor

    @staticmethod
    def of(tensor: Tensor, grows: tuple[bool, ...], batch: int) -> Blank:
        """Return a placeholder for ``tensor``."""
        sizes = tuple(size // batch if g else size for size, g in zip(tensor.shape, grows, strict=True))
        return Blank(sizes, grows, tensor.detach().new_zeros(()))

    def filled(self, batch: int) -> Tensor:
        """Return zeros of this shape for a batch of this size."""
        return self.like.expand([size * batch if g else size for size, g in zip(self.sizes, self.grows, strict=True)])

    def by_example(self, tensor: Tensor, name: str) -> Tensor:
        """Return the tensor with one row for each example.

        Raises:
            LoopscopeError: the number of dimensions that grow with the batch is not one.
        """
        if sum(self.grows) != 1:
            raise LoopscopeError(
                f"{name} has shape {tuple(tensor.shape)}, expected one dimension that grows with the number of examples"
            )
        at = self.grows.index(True)
        return (
            tensor.unflatten(at, (-1, self.sizes[at])).movedim(at, 0) if self.sizes[at] > 1 else tensor.movedim(at, 0)
        )

    def restored(self, rows: Tensor) -> Tensor:
        """Return the tensor that `by_example` was given, in its original precision; the inverse of `by_example`."""
        at = self.grows.index(True)
        moved = rows.movedim(0, at).to(self.like.dtype)
        return moved.flatten(at, at + 1) if self.sizes[at] > 1 else moved


@dataclass(frozen=True)
class Echo:
    """A placeholder for a tensor that a call returns unchanged from its arguments.

    Attributes:
        path: path of the argument.
    """

    path: Path


_LEAVES = (Tensor, Blank, Echo, int, float, str, type(None))


def leaves_by_path(tree: Tree) -> list[tuple[Path, Any]]:
    """Return each leaf of a nested structure with its path, in a fixed order."""
    found: list[tuple[Path, Any]] = []
    waiting: list[tuple[Path, Any]] = [((), tree)]
    while waiting:
        path, part = waiting.pop()
        parts = None if isinstance(part, _LEAVES) else children(part)
        if parts is None:
            found.append((path, part))
        else:
            waiting += [((*path, key), inner) for key, inner in reversed(parts.items())]
    return found


def tensors_by_path(tree: Tree) -> dict[Path, Tensor]:
    """Return the tensors of a nested structure by their paths."""
    return {path: leaf for path, leaf in leaves_by_path(tree) if isinstance(leaf, Tensor)}


def with_leaves(tree: Tree, replaced: Mapping[Path, Any]) -> Tree:
    """Return a copy with the leaves at some paths replaced; containers without such a leaf stay the same objects."""
    if not replaced:
        return tree
    if () in replaced:
        return replaced[()]
    parts = {} if isinstance(tree, _LEAVES) else children(tree) or {}
    inner: dict[Any, dict[Path, Any]] = {}
    for (key, *rest), leaf in replaced.items():
        if key in parts:
            inner.setdefault(key, {})[tuple(rest)] = leaf
    return with_children(tree, {**parts, **{key: with_leaves(parts[key], these) for key, these in inner.items()}})


def join_words(name: str, path: Path) -> str:
    """Return the expression for the leaf at a path of a named object: "carry", ("z", 0) gives carry.z[0]."""
    inner = worded(path)
    return f"{name}{'' if not inner or inner.startswith('[') else '.'}{inner}"


def worded(path: Path) -> str:
    """Return a path as a Python expression: (0, "hidden") gives [0].hidden."""
    words = "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in path)
    return words.removeprefix(".")
