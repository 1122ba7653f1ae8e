"""The damped step: a part of the way from a state to the next one."""

from __future__ import annotations

from torch import Tensor

from loopscope.errors import check_fraction
from loopscope.loop import FunctionLoop, Loop, modules_of
from loopscope.trees import Tree, tree_map


def part_of_the_way(before: Tree, after: Tree, damping: float) -> Tree:
    """Return (1 - damping) before + damping after; what is not floating is taken from ``after``.

    Example:
        >>> import torch
        >>> part_of_the_way(torch.tensor([0.0]), torch.tensor([4.0]), 0.25)
        tensor([1.])
    """

    def mixed(new: Tensor, old: Tensor) -> Tensor:
        return old + damping * (new - old) if new.is_floating_point() else new

    return tree_map(mixed, after, before)


def damped(loop: Loop, damping: float) -> Loop:
    """Return a loop whose step goes a part of the way: z <- z + damping (f(z, e) - z).

    Its fixed points are those of the loop, and an eigenvalue m of the Jacobian becomes 1 + damping (m - 1): one at -1.5 is
    repelling, and at damping 1/2 attracting. Eigenvalues above 1 stay above 1.

    Args:
        loop: the loop, which stays as it is.
        damping: above 0 and at most 1; 1 is the loop's own step.

    Raises:
        LoopscopeError: ``damping`` is out of range.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: x - 1.5 * z, lambda z: z)
        >>> ls.solve(damped(loop, 0.5), torch.tensor([[5.0]]), tolerance=1e-6).state.round(decimals=3)
        tensor([[2.]])
    """
    check_fraction(damping=damping)
    modules = modules_of(loop)
    return FunctionLoop(
        encode=loop.encode,
        start=loop.start,
        step=lambda state, recalled: part_of_the_way(state, loop.step(state, recalled), damping),
        read=loop.read,
        padding=getattr(loop, "mask", None),
        module=modules[0] if len(modules) == 1 else None,
    )
