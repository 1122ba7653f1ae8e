"""The loop: the one idea that the whole project shares.

A looped model is four functions. ``encode`` turns inputs into everything that stays the same over iterations
(the *recalled* input), ``start`` makes the first state, ``step`` is one iteration, ``read`` turns a state into a
prediction. Models are loops; solvers, training, evaluation and examination work on loops. Neither side knows the
other's inside.

Inputs, recalled and state are tensors or pytrees of tensors with the batch as first dimension. Leaves of the state
that are not floating (counters) pass through untouched and stay outside norms and derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils import _pytree as pytree

from loopscope.errors import LoopscopeError

Tree = Any
"""A tensor, or a nest of dicts, lists, tuples of tensors, batch first."""

MIXED = 0.02
"""An example that goes so far from where it goes alone, relative to its norm, is moved by others, not by rounding."""


@runtime_checkable
class Loop(Protocol):
    """A looped model, as everything here sees it.

    A loop may also have ``mask(recalled) -> Bool[Tensor, "batch tokens"]``, true where a token is real; padding is
    then kept out of norms, swaps and accuracy. And it may have ``outer_gain``, the gain of a normalization that ends
    each iteration (None where none does): the direction that this removes is then known.
    """

    def encode(self, inputs: Tree) -> Tree:
        """Return what stays the same over iterations, computed once per problem."""

    def start(self, recalled: Tree, generator: torch.Generator | None = None) -> Tree:
        """Return the first state z_0; random loops draw it from ``generator``."""

    def step(self, state: Tree, recalled: Tree) -> Tree:
        """Return the next state, f(z, e), of the same structure and shapes as ``state``."""

    def read(self, state: Tree) -> Tensor:
        """Return the prediction (logits) that ``state`` stands for."""


def _takes_generator(start: Callable[..., Tree]) -> bool:
    try:
        return len(inspect.signature(start).parameters) >= 2
    except ValueError:  # a built-in function such as torch.zeros_like has no signature
        return False


@dataclass(frozen=True)
class FunctionLoop:
    """Any looped model, wrapped in four functions.

    Args:
        encode: inputs -> recalled.
        start: recalled -> state, or (recalled, generator) -> state for a random start.
        step: (state, recalled) -> state.
        read: state -> logits.
        padding: optional, recalled -> Bool[Tensor, "batch tokens"], true where a token is real.
    """

    encode: Callable[[Tree], Tree]
    start: Callable[..., Tree]
    step: Callable[[Tree, Tree], Tree]
    read: Callable[[Tree], Tensor]
    padding: Callable[[Tree], Tensor] | None = None

    def __post_init__(self) -> None:
        if not _takes_generator(self.start):
            only_recalled = self.start
            object.__setattr__(self, "start", lambda recalled, generator=None: only_recalled(recalled))

    def mask(self, recalled: Tree) -> Tensor | None:
        """Return the mask of real tokens, or None where every token is real."""
        return None if self.padding is None else self.padding(recalled)


def mask_of(loop: Loop, recalled: Tree) -> Bool[Tensor, "batch *tokens"] | None:
    """Return the loop's mask of real tokens, or None where it has none.

    Raises:
        LoopscopeError: it is no tensor of truth values.
    """
    given = getattr(loop, "mask", None)
    mask = None if given is None else given(recalled)
    if mask is not None and getattr(mask, "dtype", None) != torch.bool:
        raise LoopscopeError(
            f"the mask is {getattr(mask, 'dtype', type(mask).__name__)}, expected torch.bool, true where a token is real: "
            "compare (mask > 0), or call .bool()"
        )
    return mask


def outer_gain_of(loop: Loop) -> Float[Tensor, "width"] | None:
    """Return the gain of the normalization that ends each iteration, where the loop names one."""
    gain = getattr(loop, "outer_gain", None)
    return None if gain is None else gain.detach()


def tree_map(function: Callable[..., Any], *trees: Tree) -> Tree:
    """Apply ``function`` leaf by leaf over trees of the same structure."""
    return pytree.tree_map(function, *trees)


def detached(tree: Tree) -> Tree:
    """Return a tree of the same values without a graph, fit for autograd where it was made in inference mode."""

    def detach(leaf: Tree) -> Tree:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.clone() if leaf.is_inference() else leaf.detach()

    return tree_map(detach, tree)


def leaves(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree, in a fixed order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def floating_leaves(tree: Tree) -> list[Tensor]:
    """Return the floating tensors of a tree: those with norms and derivatives."""
    return [leaf for leaf in leaves(tree) if leaf.is_floating_point()]


def device_of(tree: Tree) -> torch.device:
    """Return the device of a tree's first tensor; the CPU of a tree without any."""
    return next((leaf.device for leaf in leaves(tree)), torch.device("cpu"))


def device_of_loop(loop: Loop, otherwise: torch.device) -> torch.device:
    """Return the device of a loop's parameters; ``otherwise`` of a loop that is no module, or has none."""
    parameters = loop.parameters() if isinstance(loop, torch.nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), otherwise)


def batch_size(tree: Tree) -> int:
    """Return the number of examples in a tree.

    Raises:
        LoopscopeError: the tree holds something else than tensors, or they disagree about the batch.
    """
    tensors = leaves(tree)
    others = [leaf for leaf in pytree.tree_leaves(tree) if not isinstance(leaf, Tensor)]
    if others:
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in others}))
        raise LoopscopeError(
            f"expected torch tensors, batch first, got {kinds}: convert with torch.as_tensor; keep what has no batch inside "
            "the model"
        )
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in tensors}
    if len(sizes) != 1 or None in sizes:
        shapes = [tuple(leaf.shape) for leaf in tensors]
        raise LoopscopeError(
            f"expected tensors that share their first dimension (the batch), got shapes {shapes}; "
            "keep what has no batch inside the model"
        )
    return int(sizes.pop())  # type: ignore[arg-type]


def select(tree: Tree, rows: Tensor | slice) -> Tree:
    """Return the examples of a tree at ``rows`` (indices, a boolean mask or a slice of the batch)."""
    return tree_map(lambda leaf: leaf[rows], tree)


def join(trees: list[Tree]) -> Tree:
    """Return one tree with the examples of all ``trees`` in order."""
    return tree_map(lambda *parts: torch.cat(parts), *trees)


def where(rows: Bool[Tensor, "batch"], chosen: Tree, otherwise: Tree) -> Tree:
    """Return a tree that takes each example from ``chosen`` where ``rows`` is true, else from ``otherwise``."""

    def pick(yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (yes.ndim - 1)), yes, no)

    return tree_map(pick, chosen, otherwise)


def iterate(loop: Loop, state: Tree, recalled: Tree, iterations: int) -> Tree:
    """Return the state after ``iterations`` further steps."""
    for _ in range(iterations):
        state = loop.step(state, recalled)
    return state


def _fits(leaf: Tensor, mask: Tensor) -> bool:
    return leaf.shape[: mask.ndim] == mask.shape


def _masked(leaf: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None or not _fits(leaf, mask):
        return leaf
    # Filled, not multiplied: padding may hold numbers that are not finite.
    return leaf.masked_fill(~mask.view(*mask.shape, *[1] * (leaf.ndim - mask.ndim)), 0)


def flatten(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch n"]:
    """Return each example's floating numbers as one vector, padding set to zero.

    Args:
        state: a tree, batch first.
        mask: true where a token is real; applies to leaves whose leading shape it matches.
    """
    parts = [_masked(leaf, mask).reshape(leaf.shape[0], -1) for leaf in floating_leaves(state)]
    if not parts:
        raise LoopscopeError("expected a state with at least one floating tensor, got none")
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def real_numbers(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch n"]:
    """Return one for each number of the flat state that belongs to a real token, zero for padding."""
    return flatten(tree_map(torch.ones_like, state), mask)


def unflatten(vectors: Float[Tensor, "batch n"], like: Tree) -> Tree:
    """Return a tree shaped as ``like`` whose floating leaves are filled from ``vectors``; the rest is ``like``'s."""
    flat, structure = pytree.tree_flatten(like)
    filled, offset = [], 0
    for leaf in flat:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            size = leaf[0].numel()
            filled.append(vectors[:, offset : offset + size].reshape(leaf.shape).to(leaf.dtype))
            offset += size
        else:
            filled.append(leaf)
    return pytree.tree_unflatten(filled, structure)


def token_norms(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch tokens"]:
    """Return the Euclidean norm of each token's part of the state.

    A leaf [batch, tokens..., width] has one token per position, a leaf [batch, width] or [batch] a single one.
    Leaves with the same number of tokens (a TRM's two states, say) are one vector per token together; others are
    set side by side. Padding has norm zero.
    """
    squares = []
    for leaf in floating_leaves(state):
        leaf = _masked(leaf, mask)
        tokens = leaf.reshape(leaf.shape[0], -1, leaf.shape[-1] if leaf.ndim > 1 else 1)
        squares.append(tokens.square().sum(-1))
    if len({part.shape[1] for part in squares}) == 1:
        return torch.stack(squares).sum(0).sqrt()
    return torch.cat(squares, dim=1).sqrt()


def norms(state: Tree, mask: Tensor | None = None) -> Float[Tensor, "batch"]:
    """Return the Euclidean norm of each example's whole state, padding excluded."""
    return torch.linalg.vector_norm(flatten(state, mask), dim=1)


def is_time_dependent(state: Tree) -> bool:
    """Return whether the state carries a counter: for such loops only residuals and orbits are defined."""
    return any(not leaf.is_floating_point() for leaf in leaves(state))


def check_is_loop(given: Any) -> None:
    """Refuse what is no loop.

    Raises:
        LoopscopeError: it lacks one of the four functions.
    """
    if not isinstance(given, Loop):
        raise LoopscopeError(
            f"{type(given).__name__} is no loop: it needs encode, start, step and read (FunctionLoop wraps four functions)"
        )


def check_start(state: Tree, batch: int) -> None:
    """Refuse first states that are not one for each input.

    Raises:
        LoopscopeError: there are more or fewer.
    """
    if (states := batch_size(state)) != batch:
        raise LoopscopeError(
            f"expected a first state for each input, got {states} states for {batch} inputs: see start"
        )


def check_read(logits: Any, batch: int) -> None:
    """Refuse a readout that is not one tensor of outputs per input.

    Raises:
        LoopscopeError: it is no tensor, has another batch size, or no dimension of outputs.
    """
    if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != batch:
        shape = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise LoopscopeError(f"read returned {shape}, expected a tensor of shape ({batch}, ..., outputs)")


def check_mask(loop: Loop, state: Tree, recalled: Tree) -> None:
    """Refuse a mask that fits no part of the state: it would exclude nothing, and padding would count.

    Raises:
        LoopscopeError: no floating tensor of the state has the mask's shape as its first dimensions.
    """
    mask = mask_of(loop, recalled)
    if mask is not None and not any(_fits(leaf, mask) for leaf in floating_leaves(state)):
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in floating_leaves(state))
        raise LoopscopeError(
            f"the mask has shape {tuple(mask.shape)}, which fits no tensor of the state, of shape {shapes}: expected the first "
            "dimensions of one, (batch, tokens)"
        )


def check_step(loop: Loop, state: Tree, recalled: Tree) -> Tree:
    """Return the next state; refuse a step that writes over its state, is random, or returns another kind of state.

    Broadcasting would hide the last, and every number would be wrong. Costs two evaluations of the step.

    Raises:
        LoopscopeError: the state is another one afterwards, two evaluations from it differ, or what they return has
            another structure, other shapes or another precision.
    """
    with torch.no_grad(), random_state_kept(device_of(state)):
        # The CPU's generator alone: a GPU's, which draws on, differs from one evaluation to the next anyway.
        torch.default_generator.manual_seed(0)
        before = tree_map(torch.clone, state)
        first = loop.step(state, recalled)
        if not _same(before, state):
            raise LoopscopeError(
                "the step writes over the state it is given (an operation in place, such as add_): it must return a new one"
            )
        torch.default_generator.manual_seed(1)
        second = loop.step(state, recalled)
    if not _same(first, second):
        raise LoopscopeError(
            "the step is random: two evaluations from one state differ; call .eval() on the model, "
            "or fix its noise (draw it in encode) before examining"
        )
    for kind, word in ((_shape, "of shape"), (_precision, "in")):
        given, returned = (tree_map(kind, tree) for tree in (before, first))
        if given != returned:
            raise LoopscopeError(
                f"step turned a state {word} {given} into {returned}: it must return what it takes, a state of the same "
                "structure, shapes and precision, and start must too"
            )
    return first


def check_independent(loop: Loop, before: Tree, after: Tree, recalled: Tree) -> None:
    """Refuse a step that takes an example elsewhere alone than among others: what arrives leaves the batch.

    Costs an evaluation of the step with one example.

    Args:
        loop: the loop.
        before: a state of the whole batch; not the first one, for where that is zero a mean over the batch is not seen.
        after: the state one step later.
        recalled: the recalled input.

    Raises:
        LoopscopeError: it does.
    """
    if batch_size(before) < 2:
        return
    before, together, recalled = (select(tree, slice(0, 1)) for tree in (before, after, recalled))
    with torch.no_grad():
        try:
            mask = mask_of(loop, recalled)
            alone, together = flatten(loop.step(before, recalled), mask), flatten(together, mask)
            apart = alone.shape != together.shape or bool((alone - together).norm() > MIXED * together.norm())
        except (RuntimeError, ValueError):
            apart = True
    if apart:
        raise LoopscopeError(
            "the step mixes examples: one alone goes elsewhere than in the batch (batch normalization in train mode, a mean "
            "over the batch, a tensor of the whole batch that does not come from encode); each must go its own way"
        )


def _shape(leaf: Any) -> Any:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__


def _precision(leaf: Any) -> Any:
    return str(leaf.dtype).removeprefix("torch.") if isinstance(leaf, Tensor) else type(leaf).__name__


def _same(one: Tree, other: Tree) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


@contextmanager
def eval_mode(loop: Loop) -> Iterator[None]:
    """Put a loop that is a module in eval mode, and give every part of it its own mode back afterwards."""
    modules = list(loop.modules()) if isinstance(loop, torch.nn.Module) else []
    modes = [module.training for module in modules]
    if isinstance(loop, torch.nn.Module):
        loop.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch autocast off, on the CPU and on the accelerator where there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    with ExitStack() as stack:
        for kind in ("cpu", *([] if accelerator is None else [accelerator.type])):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Leave the global random state of the CPU, and of ``device`` where that is a GPU, as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        yield
