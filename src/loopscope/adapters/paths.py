"""The tensors in a nest of arguments or outputs, each by its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.trees import Tree, children, with_children

Path = tuple[Any, ...]
"""Where a leaf is: keys, positions and field names from the outside in."""


@dataclass(frozen=True)
class Blank:
    """A placeholder for a tensor whose shape and precision are needed, but not its values.

    Attributes:
        sizes: size of each dimension; for one that grows with the batch, the size per example.
        grows: which dimensions grow with the batch.
        like: a scalar of the same precision on the same device.
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
        """Return zeros of this form for a batch."""
        return self.like.expand([size * batch if g else size for size, g in zip(self.sizes, self.grows, strict=True)])

    def by_example(self, tensor: Tensor, name: str) -> Tensor:
        """Return the tensor with one row for each example.

        Raises:
            LoopscopeError: not one dimension grows with the batch.
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
        """Return what `by_example` was given, in its own precision."""
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
    """Return each leaf of a nest with its path, in a fixed order."""
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
    """Return the tensors of a nest by their paths."""
    return {path: leaf for path, leaf in leaves_by_path(tree) if isinstance(leaf, Tensor)}


def with_leaves(tree: Tree, replaced: Mapping[Path, Any]) -> Tree:
    """Return a nest with the leaves at some paths replaced; containers without such a leaf stay the same objects."""
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
    """Return what is at a path of something that has a name: "carry", ("z", 0) is carry.z[0]."""
    inner = worded(path)
    return f"{name}{'' if not inner or inner.startswith('[') else '.'}{inner}"


def worded(path: Path) -> str:
    """Return a path as one would write it: (0, "hidden") is [0].hidden."""
    words = "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in path)
    return words.removeprefix(".")
