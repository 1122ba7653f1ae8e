"""A loop with states normalized per token, on which every axis can be measured for orbits that drift.

If the direction of a state settles while its norm grows, the loop has no fixed point, but its directions do. Here each token
keeps the norm that it has in a given state: the step is z -> N(f(N(z), e)), where N scales each token to its norm. The Jacobian
of this step is that of f with the radial components projected out on both sides, times old norm over new norm. The larger the
norms, the less one update turns a token: after a drift of t iterations the normalized loop contracts by about 1 - 1/t per
step. So take the norms early in the drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loopscope.loop import AnswersPer, Loop, answers_per, mask_of, readout, start_from
from loopscope.trees import Tree, scaled_norm, tree_map

_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


@dataclass(frozen=True)
class NormalizedLoop:
    """A loop with each token of the state held at a given norm.

    Its inputs are a dict of the loop's ``inputs`` and the ``sizes`` (norms) of the tokens. Its recalled input is a dict of
    ``recalled`` and ``sizes``. Sizes are kept as bit patterns, which are not floating, so that they do not count as input.
    """

    loop: Loop

    @property
    def answers_per(self) -> AnswersPer:
        """What one of the loop's answers belongs to."""
        return answers_per(self.loop)

    def encode(self, inputs: dict[str, Tree]) -> dict[str, Tree]:
        """Return the loop's recalled input and the sizes."""
        return {"recalled": self.loop.encode(inputs["inputs"]), "sizes": inputs["sizes"]}

    def start(self, recalled: dict[str, Tree], generator: torch.Generator | None = None) -> Tree:
        """Return the loop's first state, rescaled."""
        return _rescaled(start_from(self.loop, recalled["recalled"], generator), recalled["sizes"])

    def step(self, state: Tree, recalled: dict[str, Tree]) -> Tree:
        """Return N(f(N(z), e))."""
        return _rescaled(self.loop.step(_rescaled(state, recalled["sizes"]), recalled["recalled"]), recalled["sizes"])

    def read(self, state: Tree, recalled: dict[str, Tree]) -> Tensor:
        """Return the loop's prediction."""
        return readout(self.loop, state, recalled["recalled"])

    def mask(self, recalled: dict[str, Tree]) -> Tensor | None:
        """Return the loop's mask of real tokens, or None if all tokens are real."""
        return mask_of(self.loop, recalled["recalled"])


def normalized(loop: Loop, inputs: Tree, state: Tree) -> tuple[NormalizedLoop, dict[str, Tree]]:
    """Return the loop with its tokens held at the norms that they have in ``state``, and the inputs of that loop.

    Args:
        loop: any loop.
        inputs: its inputs.
        state: a state of a drifting orbit, from which the norms are taken. Start the new loop from there.
    """
    return NormalizedLoop(loop), {"inputs": inputs, "sizes": tree_map(_size_bits, state)}


def _norm(leaf: Tensor) -> Tensor:
    return scaled_norm(leaf, -1, keepdim=True) if leaf.ndim > 1 else leaf.abs()


def _size_bits(leaf: Tensor) -> Tensor:
    return _norm(leaf.detach()).view(_BITS[leaf.dtype]) if leaf.is_floating_point() else torch.zeros_like(leaf)


def _rescaled(state: Tree, sizes: Tree) -> Tree:
    def rescale(leaf: Tensor, bits: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        return leaf * (bits.view(leaf.dtype) / _norm(leaf).clamp_min(torch.finfo(leaf.dtype).tiny))

    return tree_map(rescale, state, sizes)
