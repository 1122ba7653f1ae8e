"""Products with the Jacobians of a loop.

J = df/dz of one example is an n x n matrix with n = tokens x width: 20,736 for sudoku at width 256. It is never formed.
``Jacobian`` computes v^T J (``vjp``) and J v (``jvp``) for a whole batch at once. Examples are independent, so J is
block-diagonal over the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from loopscope.checks import check_states, check_step
from loopscope.contexts import check_time
from loopscope.errors import LoopscopeError, NotDefinedError
from loopscope.loop import Loop, mask_of
from loopscope.trees import (
    Tree,
    children,
    detached,
    flatten,
    floating_leaves,
    has_clock,
    masks_aside,
    masks_back,
    real_numbers,
    scaled_norm,
    select,
    tree_map,
    unflatten,
)
from loopscope.weights import with_weights

THROUGH_ENCODE, AT_RECALLED = "inputs, through encode", "recalled input"
"""Variables that a derivative in the input can be taken with respect to."""

DOUBLE_BACKWARD, FORWARD_MODE, CENTRAL_DIFFERENCES = "double backward", "forward mode", "central differences"
"""Ways to compute products J v."""


@dataclass(frozen=True)
class Jacobian:
    """The Jacobian of a batched function at one point per example, accessible through products.

    Attributes:
        function: (flat point, context) -> flat value, example by example.
        point: where the Jacobian is taken.
        context: trees, batch first, of everything else that ``function`` needs.
        path: the variable of the derivative, in words.
        origin: the Jacobian of the same function that this one was derived from, if any.
    """

    function: Callable[[Tensor, Tree], Tensor]
    point: Float[Tensor, "batch n"]
    context: Tree
    path: str = "state"
    origin: Jacobian | None = dataclass_field(default=None, repr=False)

    @property
    def batch(self) -> int:
        """The number of examples."""
        return self.point.shape[0]

    @property
    def size(self) -> int:
        """The number of columns of each example's Jacobian."""
        return self.point.shape[1]

    @property
    def rows(self) -> int:
        """The number of rows of each example's Jacobian."""
        return self._graph[1].shape[1]

    @property
    def value(self) -> Float[Tensor, "batch m"]:
        """The value of the function at the point."""
        return self._graph[1].detach()

    @cached_property
    def _graph(self) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            point = self.point.detach().requires_grad_()
            value = self.function(point, self.context)
        return point, value

    @cached_property
    def _pulled(self) -> tuple[Tensor, Tensor]:
        """A cotangent u, and J^T u with its graph. J^T u is linear in u, so its derivative along v is J v for any u."""
        # Fused attention has no second derivative; plain attention does.
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            point = self.point.detach().requires_grad_()
            value = self.function(point, self.context)
            cotangent = torch.zeros_like(value, requires_grad=True)
            (pulled,) = torch.autograd.grad(value, point, cotangent, create_graph=True)
        return cotangent, pulled

    @cached_property
    def depends(self) -> bool:
        """Whether the value depends on the point, as far as autograd sees. Parameters do not count."""
        point, value = self._graph
        if not value.requires_grad:
            return False
        with torch.inference_mode(False):
            (product,) = torch.autograd.grad(
                value, point, torch.zeros_like(value), retain_graph=True, allow_unused=True
            )
        return product is not None

    def vjp(self, vectors: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        """Return v^T J for each example. All products share one retained graph."""
        check_time()
        point, value = self._graph
        if not self.depends:
            return torch.zeros_like(point)
        with torch.inference_mode(False):
            (product,) = torch.autograd.grad(value, point, vectors.to(value.dtype), retain_graph=True)
        return product.detach()

    def jvp(self, vectors: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
        """Return J v for each example, computed as ``product`` says."""
        check_time()
        return _PRODUCTS[self.product](self, vectors.to(self.point.dtype))

    @cached_property
    def product(self) -> str:
        """How J v is computed: by double backward, else forward mode, else central differences.

        The first two are tried on one example. They are used if they run and agree with ``vjp``: u^T (J v) = (u^T J) v. If an
        operation has no derivative rule, or a wrong one, the next way is tried. Double backward comes first because it keeps
        its graph: on a looped transformer a product takes about as many multiplications as one evaluation of the step, like
        ``vjp``. Forward mode evaluates the step again for each product and takes three times as many.
        """
        return _working_product(self.select(slice(0, 1))) if self.origin is None else self.origin.product

    def at(self, state: Tree) -> Jacobian:
        """Return the Jacobian of the same step at another state of the same examples."""
        with torch.inference_mode(False):
            state = detached(state)
            return self._moved(_point(state), {**self.context, "state": state})

    def select(self, rows: Tensor | slice) -> Jacobian:
        """Return the Jacobians of some examples (indices, a boolean mask or a slice of the batch)."""
        with torch.inference_mode(False):
            return self._moved(self.point[rows], select(self.context, rows))

    def _moved(self, point: Tensor, context: Tree) -> Jacobian:
        return replace(self, point=point, context=context, origin=self.origin or self)


def _forward_mode(jacobian: Jacobian, vectors: Tensor) -> Tensor:
    # Fused attention has no rule for forward mode; plain attention does.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        forward_ad.dual_level(),
        warnings.catch_warnings(),
    ):
        # On first use, PyTorch loads derivative rules that it still compiles with torch.jit.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        value = jacobian.function(forward_ad.make_dual(jacobian.point, vectors), jacobian.context)
        plain, tangent = forward_ad.unpack_dual(value)
    return torch.zeros_like(plain) if tangent is None else tangent.detach()


def _double_backward(jacobian: Jacobian, vectors: Tensor) -> Tensor:
    if not jacobian.depends:
        return torch.zeros_like(jacobian._graph[1])
    cotangent, pulled = jacobian._pulled
    if not pulled.requires_grad:  # the derivative is constant, or has been cut from the graph
        return torch.zeros_like(cotangent)
    with torch.inference_mode(False):
        (product,) = torch.autograd.grad(pulled, cotangent, vectors, retain_graph=True)
    return product.detach()


def _central_differences(jacobian: Jacobian, vectors: Tensor) -> Tensor:
    # Truncation and rounding balance at a step of eps^(1/3) times the size of the point or of its value.
    point = jacobian.point
    eps = torch.finfo(point.dtype).eps
    with torch.no_grad():
        value = jacobian.function(point, jacobian.context)
        length, size, other = (scaled_norm(part, keepdim=True) for part in (vectors, point, value))
        size = torch.maximum(size, other)
        one = torch.ones_like(size)
        step = eps ** (1 / 3) * torch.where(size > 0, size, one) / torch.where(length > 0, length, one)
        ahead = jacobian.function(point + step * vectors, jacobian.context)
        behind = jacobian.function(point - step * vectors, jacobian.context)
    return (ahead - behind) / (2 * step)


_PRODUCTS: dict[str, Callable[[Jacobian, Tensor], Tensor]] = {
    DOUBLE_BACKWARD: _double_backward,
    FORWARD_MODE: _forward_mode,
    CENTRAL_DIFFERENCES: _central_differences,
}


def _working_product(probe: Jacobian) -> str:
    generator = torch.Generator().manual_seed(0)
    right = random_vectors(probe.batch, probe.size, probe.point, generator)
    left = random_vectors(probe.batch, probe.rows, probe.point, generator)
    pulled = probe.vjp(left)
    expected = (pulled * right).sum()
    for name in (DOUBLE_BACKWARD, FORWARD_MODE):
        try:
            pushed = _PRODUCTS[name](probe, right)
        except RuntimeError:  # an operation without this derivative
            continue
        scale = scaled_norm(pushed.flatten(), 0) + scaled_norm(pulled.flatten(), 0)
        if torch.abs((left * pushed).sum() - expected) <= 1e-3 * scale:
            return name
    return CENTRAL_DIFFERENCES


def random_vectors(batch: int, size: int, like: Tensor, generator: torch.Generator) -> Float[Tensor, "batch n"]:
    """Return Gaussian unit vectors, drawn on the generator's device, with the dtype and device of ``like``."""
    drawn = torch.randn(batch, size, generator=generator, device=generator.device, dtype=torch.float64)
    return (drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)).to(like)


def in_precision(loop: Loop, state: Tree, recalled: Tree, dtype: torch.dtype) -> tuple[Loop, Tree, Tree]:
    """Return the loop and its tensors in another floating precision. The originals are not changed.

    A loop that is a module is copied. A ``FunctionLoop`` runs with converted weights of the modules that it names. Apart from
    these modules, its functions must accept tensors of ``dtype``.
    """

    def cast(leaf: Tree) -> Tree:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    loop = with_weights(loop, lambda weights: weights.to(dtype))
    return loop, tree_map(cast, state), tree_map(cast, recalled)


def step_jacobian(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    *,
    dtype: torch.dtype | None = None,
) -> Jacobian:
    """Return J = df/dz at ``state``, per example, acting on flat states Float[Tensor, "batch n"].

    Rows and columns of padding are zero. Autocast is off. The precision is that of the state, but at least float32.

    Args:
        loop: the loop.
        state: where J is taken, batch first.
        recalled: what ``loop.encode`` returned for the same examples.
        dtype: another precision (torch.float64) for the loop and its tensors.

    Raises:
        LoopscopeError: the states do not belong to the recalled inputs, the batch is empty, or the step changes a counter in the
            state (the loop is time-dependent), is random, changes the shape of the state or cannot be differentiated.

    Example:
        >>> import loopscope as ls
        >>> loop = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: 0.5 * z.flip(1) + e, lambda z: z)
        >>> jacobian = step_jacobian(loop, torch.zeros(1, 2), torch.ones(1, 2))
        >>> jacobian.jvp(torch.tensor([[1.0, 0.0]]))
        tensor([[0.0000, 0.5000]])
    """
    check_states(loop, state, recalled)
    with torch.inference_mode(False):
        state, recalled = detached(state), detached(recalled)
        if dtype is not None:
            loop, state, recalled = in_precision(loop, state, recalled, dtype)
    # These checks need one example only, at a fraction of the cost.
    one = select(state, slice(0, 1))
    try:
        after = check_step(loop, one, select(recalled, slice(0, 1)))
    except RuntimeError as error:
        if dtype is None:
            raise
        raise LoopscopeError(
            f"the step does not run in {str(dtype).removeprefix('torch.')} ({str(error)[:160]}): name the model that it uses, "
            "FunctionLoop(..., module=model), so that its weights are converted"
        ) from error
    if has_clock(one, after):
        raise LoopscopeError(
            "a step changes a part of the state that is not floating (a counter), so the loop depends on time and has no "
            "single Jacobian: use residuals and orbits, or move the counter out of the state"
        )

    def function(point: Tensor, context: Tree) -> Tensor:
        state, recalled = context["state"], context["recalled"]
        mask = mask_of(loop, recalled)
        moved = _placed(point, state, mask)
        with _plain(point):
            value = flatten(loop.step(unflatten(moved, state), recalled), mask)
        return value.to(point.dtype)

    jacobian = Jacobian(function, _point(state), {"state": state, "recalled": recalled})
    _refuse_undifferentiable(jacobian.select(slice(0, 1)), "the step", "the state")
    return jacobian


def input_jacobian(
    loop: Loop,
    state: Tree,
    recalled: Tree,
    inputs: Tree | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Jacobian:
    """Return df/dx at ``state``, per example. Its ``path`` says what x is.

    If ``inputs`` has floating leaves and ``encode`` is differentiable in them, x is these leaves, and the derivative goes through
    ``encode``. Otherwise, x is the floating leaves of ``recalled``. Masks are left out of both (see
    `loopscope.trees.masks_aside`). The context contains x as a tree, under "x".

    Raises:
        NotDefinedError: neither ``inputs`` nor ``recalled`` has such a leaf; the message names their tensors.
        LoopscopeError: the gradient is cut.
    """
    with torch.inference_mode(False):
        state, recalled, inputs = detached(state), detached(recalled), detached(inputs)
        if dtype is not None:
            tensors = {"recalled": recalled, "inputs": inputs}
            loop, state, tensors = in_precision(loop, state, tensors, dtype)
            recalled, inputs = tensors["recalled"], tensors["inputs"]

    def value_of(recalled: Tree, state: Tree, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
        return flatten(loop.step(state, recalled), mask).to(dtype)

    def moved(point: Tensor, context: Tree, mask: Tensor | None) -> Tree:
        return masks_back(unflatten(_placed(point, context["x"], mask), context["x"]))

    def through_encode(point: Tensor, context: Tree) -> Tensor:
        mask = mask_of(loop, context["recalled"])
        with _plain(point):
            return value_of(loop.encode(moved(point, context, mask)), context["state"], mask, point.dtype)

    def encoded(point: Tensor, context: Tree) -> Tensor:
        mask = mask_of(loop, context["recalled"])
        with _plain(point):
            recalled = loop.encode(moved(point, context, mask))
            return flatten(recalled) if floating_leaves(recalled) else torch.zeros_like(point)

    def at_recalled(point: Tensor, context: Tree) -> Tensor:
        mask = mask_of(loop, context["recalled"])
        with _plain(point):
            return value_of(moved(point, context, mask), context["state"], mask, point.dtype)

    x = masks_aside(inputs)
    if floating_leaves(x):
        context = {"state": state, "recalled": recalled, "x": x}
        jacobian = Jacobian(through_encode, _point(x), context, THROUGH_ENCODE)
        if jacobian.depends:
            return jacobian
        if Jacobian(encoded, _point(x), context).depends:
            _refuse_undifferentiable(jacobian, "the step", "the input")
            return jacobian
    x = masks_aside(recalled)
    if not floating_leaves(x):
        raise NotDefinedError(_no_floating_input(inputs, recalled))
    jacobian = Jacobian(at_recalled, _point(x), {"state": state, "recalled": recalled, "x": x}, AT_RECALLED)
    _refuse_undifferentiable(jacobian, "the step", "the recalled input")
    return jacobian


def _no_floating_input(inputs: Tree, recalled: Tree) -> str:
    """Return why there is no derivative in the input, naming the leaves that would have one if they were embedded."""
    kinds = [
        f"{name} is {kind}"
        for tree, root in ((recalled, "recalled"), (inputs, "inputs"))
        for name, kind in _kinds(tree, root)
    ]
    said = ", ".join(kinds[:_NAMED]) + (", ..." if len(kinds) > _NAMED else "")
    return (
        f"there is no derivative in the input, since no tensor of it is floating ({said}): let encode return the embedded input, "
        "such as embed(ids), instead of the ids"
    )


_NAMED = 6
"""Largest number of leaves that a message names."""


def _kinds(tree: Tree, name: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the kind of each tensor of a tree."""
    if isinstance(tree, Tensor):
        mask = "a mask in " if tree.is_floating_point() else ""
        yield name, f"{mask}{str(tree.dtype).removeprefix('torch.')}"
        return
    for key, part in (children(tree) or {}).items():
        yield from _kinds(part, f"{name}[{key!r}]")


@contextmanager
def _plain(point: Tensor) -> Iterator[None]:
    """Switch off autocast and compiled code, since the graph of a compiled function serves only one backward pass."""
    with torch.autocast(point.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
        yield


def _point(tree: Tree) -> Tensor:
    flat = flatten(tree)
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def _placed(point: Tensor, base: Tree, mask: Bool[Tensor, "batch *tokens"] | None) -> Tensor:
    """Return the flat ``point`` as a tree, with padding kept at ``base`` so that derivatives stay among real tokens."""
    if mask is None:
        return point
    return torch.where(real_numbers(base, mask) > 0, point, flatten(base).to(point.dtype))


def _refuse_undifferentiable(jacobian: Jacobian, what: str, variable: str) -> None:
    """Refuse a function whose graph was cut. A function that does not depend on ``variable`` is accepted, with J = 0."""
    if jacobian.depends:
        return
    generator = torch.Generator().manual_seed(0)
    direction = random_vectors(jacobian.batch, jacobian.size, jacobian.point, generator)
    if bool((_central_differences(jacobian, direction) != 0).any()):
        raise LoopscopeError(
            f"{what} changes with {variable} but carries no gradient to it; "
            "remove torch.no_grad, detach or inference_mode from the step"
        )
