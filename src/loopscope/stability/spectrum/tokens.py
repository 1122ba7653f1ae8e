"""The spectral radius of each token of a causal loop.

In a causal loop, a token's next state depends on its own state and on those of earlier tokens alone. The Jacobian of the whole
state is then block-triangular over the tokens, and its eigenvalues are those of its diagonal blocks: of d f_p / d z_p for each
token p. The products of all blocks are taken together, one copy of the example for each token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from loopscope.checks import check_states
from loopscope.errors import LoopscopeError
from loopscope.jacobian import Jacobian, in_precision, step_jacobian
from loopscope.loop import Loop
from loopscope.stability.spectrum.eigenvalues import SUBSPACE, jacobian_eigenvalues
from loopscope.trees import Tree, detached, floating_leaves, select, tree_map

LEAK = 1e-5
"""Change of an earlier token, relative to its size, above which a later one is said to act on it rather than rounding."""


@dataclass(frozen=True)
class TokenRadius:
    """The dominant eigenvalue of each token's diagonal block of the Jacobian.

    Attributes:
        eigenvalue: the eigenvalue of largest modulus, with a positive imaginary part if it belongs to a conjugate pair; NaN
            for padding.
        radius: its modulus; NaN for padding.
        error: absolute error of the radius; NaN for padding.
        converged: whether the error is within the tolerance; False for padding.

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: 0.5 * z + e, lambda z: z)
        >>> found = ls.token_spectral_radius(loop, torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
        >>> isinstance(found, ls.TokenRadius), bool(found.converged.all())
        (True, True)
    """

    eigenvalue: Complex[Tensor, "batch tokens"]
    radius: Float[Tensor, "batch tokens"]
    error: Float[Tensor, "batch tokens"]
    converged: Bool[Tensor, "batch tokens"]


def token_spectral_radius(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    *,
    tolerance: float = 1e-2,
    max_products: int = 500,
    subspace: int = SUBSPACE,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> TokenRadius:
    """Return the spectral radius of each token of a causal loop at ``state``.

    The largest of them is the spectral radius of the whole Jacobian.

    Args:
        loop: a causal loop.
        state: where the Jacobian is taken. Every floating part has the shape [batch, tokens, ...].
        recalled: what ``loop.encode`` returned for the same examples.
        tolerance: relative tolerance on the error.
        max_products: products v^T J for each token and start.
        subspace: Krylov vectors kept per token.
        seed: seed of the two random starts.
        dtype: another precision (torch.float64) for the loop and its tensors.

    Raises:
        LoopscopeError: a later token acts on an earlier one, the parts of the state differ in their number of tokens, or the
            Jacobian is not defined (see `loopscope.jacobian.step_jacobian`).

    Example:
        >>> import torch, loopscope as ls
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda x: x, start=torch.zeros_like, step=lambda z, e: z.cumsum(1) * e, read=lambda z: z
        ... )
        >>> factors = torch.tensor([[[0.5], [0.9], [0.1]]])
        >>> ls.token_spectral_radius(loop, torch.ones(1, 3, 1), factors).radius
        tensor([[0.5000, 0.9000, 0.1000]], dtype=torch.float64)
    """
    step_jacobian(loop, state, recalled, dtype=dtype)  # refuses what has no Jacobian
    with torch.inference_mode(False):
        state, recalled = detached(state), detached(recalled)
        if dtype is not None:
            loop, state, recalled = in_precision(loop, state, recalled, dtype)
    batch, tokens = _grid(state)
    mask = check_states(loop, state, recalled)
    _check_causal(loop, state, recalled, tokens)
    real = torch.ones(batch, tokens, dtype=torch.bool) if mask is None else mask.cpu()
    rows, places = torch.nonzero(real, as_tuple=True)
    found = jacobian_eigenvalues(
        _blocks(loop, state, recalled, rows, places),
        1,
        tolerance=tolerance,
        max_products=max_products,
        subspace=subspace,
        seed=seed,
    )
    value = found.eigenvalues[:, 0]
    value = torch.complex(value.real, value.imag.abs())
    unknown = torch.full((batch, tokens), math.nan, dtype=torch.float64)
    return TokenRadius(
        eigenvalue=torch.complex(unknown, unknown).masked_scatter(real, value),
        radius=unknown.masked_scatter(real, value.abs()),
        error=unknown.masked_scatter(real, found.error[:, 0]),
        converged=torch.zeros(batch, tokens, dtype=torch.bool).masked_scatter(real, found.converged[:, 0]),
    )


def _grid(state: Tree) -> tuple[int, int]:
    """Return the numbers of examples and of tokens of a state.

    Raises:
        LoopscopeError: the parts of the state do not all have the same tokens.
    """
    shapes = [tuple(leaf.shape) for leaf in floating_leaves(state)]
    if len({shape[:2] for shape in shapes}) != 1 or any(len(shape) < 2 for shape in shapes):
        raise LoopscopeError(
            f"the parts of the state have shapes {shapes}, expected [batch, tokens, ...] with the same tokens in each: use "
            "spectral_radius for the whole state"
        )
    return shapes[0][0], shapes[0][1]


def _check_causal(loop: Loop, state: Tree, recalled: Tree, tokens: int) -> None:
    """Refuse a step in which a later token changes an earlier one, as far as a change of one example shows it.

    Raises:
        LoopscopeError: it does.
    """
    one, some = select(state, slice(0, 1)), select(recalled, slice(0, 1))
    with torch.no_grad(), torch.autocast(floating_leaves(one)[0].device.type, enabled=False):
        plain = floating_leaves(loop.step(one, some))
        for first in sorted({tokens // 2, tokens - 1} - {0}):

            def moved(leaf: Tensor, first: int = first) -> Tensor:
                if not leaf.is_floating_point():
                    return leaf
                changed = leaf.clone()
                changed[:, first:] = changed[:, first:].flip(-1) + 1
                return changed

            for before, after in zip(plain, floating_leaves(loop.step(tree_map(moved, one), some)), strict=True):
                change = (after - before)[:, :first].abs().amax()
                if change > LEAK * before[:, :first].abs().amax().clamp_min(torch.finfo(before.dtype).tiny):
                    raise LoopscopeError(
                        f"a change of the tokens from {first} on changes earlier ones, so the loop is not causal and its tokens "
                        "have no spectra of their own: use spectral_radius for the whole state"
                    )


def _blocks(loop: Loop, state: Tree, recalled: Tree, rows: Int[Tensor, "n"], places: Int[Tensor, "n"]) -> Jacobian:
    """Return the diagonal blocks of some tokens as one batched Jacobian.

    Args:
        loop: the loop.
        state: the states.
        recalled: their recalled input.
        rows: the example of each token.
        places: its place among the tokens.
    """
    device = floating_leaves(state)[0].device

    def own(tree: Tree, places: Tensor) -> Float[Tensor, "n numbers"]:
        each = torch.arange(len(places), device=device)
        return torch.cat([leaf[each, places].reshape(len(places), -1) for leaf in floating_leaves(tree)], dim=1)

    def with_own(tree: Tree, point: Tensor, places: Tensor) -> Tree:
        begin = 0

        def placed(leaf: Tensor) -> Tensor:
            nonlocal begin
            if not leaf.is_floating_point():
                return leaf
            size = leaf[0, 0].numel()
            part = point[:, begin : begin + size].to(leaf.dtype).view(len(leaf), 1, *leaf.shape[2:])
            begin += size
            here = torch.arange(leaf.shape[1], device=device) == places[:, None]
            return torch.where(here.view(*here.shape, *[1] * (leaf.ndim - 2)), part, leaf)

        return tree_map(placed, tree)

    def function(point: Tensor, context: Tree) -> Tensor:
        some, places = select(state, context["row"]), context["place"]
        with torch.autocast(device.type, enabled=False):
            after = loop.step(with_own(some, point, places), select(recalled, context["row"]))
        return own(after, places).to(point.dtype)

    rows, places = rows.to(device), places.to(device)
    point = own(select(state, rows), places)
    if point.dtype in (torch.float16, torch.bfloat16):
        point = point.float()
    return Jacobian(function, point, {"row": rows, "place": places})
