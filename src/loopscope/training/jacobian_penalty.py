"""A penalty on the Jacobian of the step, which training can reduce: the mean squared entry, by Hutchinson's estimate.

With random signs v, v^T J has the expected squared norm ||J||_F^2. One exact product per training step estimates it without a
Jacobian (Bai, Koltun and Kolter, "Stabilizing equilibrium models by Jacobian regularization", 2021).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from loopscope.loop import Loop
from loopscope.trees import Tree, flatten, floating_leaves, tree_map


def random_signs(state: Tree, generator: torch.Generator) -> Float[Tensor, "batch n"]:
    """Return a random sign for each floating number of a state, drawn on the generator's device."""
    flat = flatten(state)
    drawn = torch.randint(0, 2, flat.shape, generator=generator, device=generator.device)
    return (2 * drawn - 1).to(flat)


def jacobian_penalty(loop: Loop, state: Tree, recalled: Tree, signs: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
    """Return the estimate of ||J||_F^2 / n, mean over the batch, with its graph to the parameters and the recalled input.

    The state is a constant: the penalty changes the Jacobian where orbits are, not the orbits. It is computed in float32,
    without compiled or fused operations, which have no second derivative.

    Args:
        loop: the loop.
        state: where J is taken, usually the last state of the forward pass.
        recalled: what ``loop.encode`` returned, with its graph.
        signs: from ``random_signs``.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: 0.5 * z + x, lambda z: z)
        >>> state = torch.ones(2, 3)
        >>> jacobian_penalty(loop, state, state, random_signs(state, torch.Generator()))
        tensor(0.2500)
    """

    def single(leaf: Tensor) -> Tensor:
        return leaf.to(torch.promote_types(leaf.dtype, torch.float32)) if leaf.is_floating_point() else leaf

    device = flatten(state).device.type
    with (
        torch.enable_grad(),
        torch.autocast(device, enabled=False),
        torch.compiler.set_stance("force_eager"),
        sdpa_kernel(SDPBackend.MATH),
    ):
        point = tree_map(lambda leaf: single(leaf.detach()).requires_grad_(leaf.is_floating_point()), state)
        value = flatten(loop.step(point, tree_map(single, recalled)))
        products = torch.autograd.grad(value, floating_leaves(point), signs.to(value), create_graph=True)
        return torch.stack([product.square().sum() for product in products]).sum() / signs.numel()
