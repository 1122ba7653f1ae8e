"""Requirements on a loop, its inputs, its states and its readout. Each refusal is one line that names the cause.

Every public operation on a loop begins with one of three functions: ``prepare`` in general, ``prepare_states`` in training, where
the step must not be evaluated beforehand, and ``check_states`` if the state is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from loopscope.contexts import seeded
from loopscope.errors import LoopscopeError, check_seed
from loopscope.kinds import TimedLoop, wants_of
from loopscope.loop import Loop, first_state, mask_of, readout
from loopscope.readouts import examples_at_once
from loopscope.trees import (
    Tree,
    batch_size,
    children,
    detached,
    device_of,
    flatten,
    floating_leaves,
    has_clock,
    leaves,
    mask_fits,
    select,
    tree_map,
)

MIXED = 0.02
"""Relative distance between an example's step alone and in a batch above which examples mix; below, it is rounding."""

PROBED = 2
"""Number of examples on which the step is tried."""

_NONDETERMINISTIC = 1e-4
"""Relative distance within which two results on a GPU count as equal, since its kernels may add in varying order."""


@dataclass(frozen=True)
class Prepared:
    """The first states of a batch, after all checks have passed.

    Attributes:
        recalled: what ``encode`` returned.
        start: the first states.
        mask: true where a token is real; None if all are.
        time_dependent: whether the state carries a clock, so that fixed points are not defined; None if this was not checked.
    """

    recalled: Tree
    start: Tree
    mask: Bool[Tensor, "batch *tokens"] | None
    time_dependent: bool | None = None


def prepare(loop: Loop, inputs: Tree, *, seed: int = 0, start: Tree | None = None) -> Prepared:
    """Encode the inputs, make the first states, and refuse what cannot be measured.

    The caller has switched off gradients and autocast, and put the loop in eval mode. This costs five evaluations of the step
    with at most two examples, two of ``start`` and one of ``read``.

    Args:
        loop: the loop.
        inputs: what ``loop.encode`` takes, batch first.
        seed: seed of a random start.
        start: first states to use instead of the loop's own.

    Raises:
        LoopscopeError: the loop lacks one of its functions, a batch is empty, batches disagree, a first state is not finite or
            in half precision, a mask fits no part of the state, the readout is not a tensor of outputs; or the step or the start
            is random, writes over its arguments, remembers earlier calls, changes the structure of the state, mixes examples or
            takes only one batch size.

    Example:
        >>> from loopscope.loop import FunctionLoop
        >>> loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z.add_(e), lambda z: z)
        >>> prepare(loop, torch.ones(4, 2))
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: the step writes over the state that it is given (an operation in place, such as ...
    """
    check_is_loop(loop)
    check_seed(seed)
    check_not_empty(inputs)
    return prepare_recalled(loop, loop.encode(inputs), batch_size(inputs), seed=seed, start=start)


def prepare_recalled(
    loop: Loop, recalled: Tree, batch: int | None = None, *, seed: int = 0, start: Tree | None = None
) -> Prepared:
    """Like ``prepare``, for inputs that are already encoded; ``batch`` is the number of inputs, if known."""
    ready = _first_states(loop, recalled, batch, seed, start)
    check_finite(ready.start, ready.mask)
    if start is None:
        check_start_repeats(loop, ready.recalled, seed)
    _check_readout(loop, ready.start, ready.recalled)
    clock = check_dynamics(loop, ready.start, ready.recalled)
    return Prepared(ready.recalled, ready.start, ready.mask, clock)


def _check_readout(loop: Loop, state: Tree, recalled: Tree) -> None:
    """Read a batch once, as much of it at a time as fits, and check each part."""
    batch, together = batch_size(state), examples_at_once(loop, state, recalled)
    for begin in range(0, batch, together):
        part = slice(begin, min(begin + together, batch))
        check_read(readout(loop, select(state, part), select(recalled, part)), part.stop - part.start)


def prepare_states(loop: Loop, inputs: Tree, *, seed: int = 0) -> Prepared:
    """Encode the inputs with gradients, make the first states without, and check both. The step is not evaluated.

    Raises:
        LoopscopeError: like `prepare`, as far as the first states show. They may contain NaN, as they do when training diverges.
    """
    check_is_loop(loop)
    check_seed(seed)
    check_not_empty(inputs)
    return _first_states(loop, loop.encode(inputs), batch_size(inputs), seed, None)


def _first_states(loop: Loop, recalled: Tree, batch: int | None, seed: int, start: Tree | None) -> Prepared:
    check_is_loop(loop)
    check_step_alone(loop)
    check_seed(seed)
    encoded = _batch_of(recalled, "encode returned")
    if batch is not None and encoded != batch:
        raise LoopscopeError(
            f"encode returned {encoded} examples for {batch} inputs: the batch comes first, and keeps its size"
        )
    with torch.no_grad():
        fixed = detached(recalled)
        start = first_state(loop, fixed, seed) if start is None else start
        mask = check_states(loop, start, fixed)
        state_dtype(start)
    return Prepared(recalled, start, mask)


def check_states(loop: Loop, state: Tree, recalled: Tree) -> Bool[Tensor, "batch *tokens"] | None:
    """Return the mask of real tokens; refuse states and recalled inputs that do not belong together.

    Raises:
        LoopscopeError: ``loop`` is not a loop, the batch is empty, the numbers of states and recalled inputs differ, the state
            has no floating tensor, or the mask does not fit.
    """
    check_is_loop(loop)
    check_step_alone(loop)
    batch = _batch_of(recalled, "the recalled input is")
    check_start(state, batch)
    if not batch:
        raise LoopscopeError("the batch is empty: expected at least one example")
    check_real(state)
    if not floating_leaves(state):
        raise LoopscopeError(
            f"the state has no floating tensor ({_outline(state, _precision)}): expected at least one, such as an embedding"
        )
    check_mask(loop, state, recalled)
    return mask_of(loop, recalled)


def check_is_loop(given: Any) -> None:
    """Refuse what is not a loop.

    Raises:
        LoopscopeError: it is a class, lacks one of the four functions, or has ``padding`` in place of ``mask``.

    Example:
        >>> check_is_loop(torch.nn.Linear(2, 2))
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: expected a loop with encode, start, step and read, got Linear, which lacks encode, ...
    """
    if isinstance(given, type):
        raise LoopscopeError(f"expected a loop, got the class {given.__name__}: make an instance of it first")
    if not isinstance(given, Loop):
        missing = [name for name in ("encode", "start", "step", "read") if not hasattr(given, name)]
        raise LoopscopeError(
            f"expected a loop with encode, start, step and read, got {type(given).__name__}, which lacks "
            f"{', '.join(missing)}: FunctionLoop makes a loop of four functions"
        )
    if callable(getattr(given, "padding", None)) and not callable(getattr(given, "mask", None)):
        raise LoopscopeError(
            f"{type(given).__name__} has a method padding, which is ignored: rename it to mask(recalled), true where a token "
            "is real"
        )


def check_step_alone(loop: Loop) -> None:
    """Refuse a loop whose step asks for the iteration or a generator, where a loop of a single map is needed.

    Raises:
        LoopscopeError: naming what it asks for.

    Example:
        >>> from loopscope.loop import FunctionLoop
        >>> check_step_alone(FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e, iteration: z / 2 + e, lambda z: z))
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: the step takes iteration, so the loop is time-dependent and has no fixed point: ...
    """
    wants = wants_of(loop)
    if wants.iteration:
        raise LoopscopeError(
            "the step takes iteration, so the loop is time-dependent and has no fixed point: ls.examine and ls.forecast take it as "
            "it is; ls.freeze(loop, iteration=...) makes one iteration an autonomous loop"
        )
    if wants.generator:
        raise LoopscopeError(
            "the step takes a generator, so the loop is stochastic and has no fixed point: ls.examine and ls.forecast take it as it "
            "is; for its mean behaviour give a step without the noise"
        )


def check_not_empty(inputs: Tree) -> int:
    """Return the number of examples in a batch; refuse an empty one.

    Raises:
        LoopscopeError: the batch is empty, or refused by `loopscope.trees.batch_size`.

    Example:
        >>> check_not_empty(torch.zeros(0, 3))
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: the batch is empty (shapes [(0, 3)]): expected at least one example
    """
    batch = batch_size(inputs)
    if not batch:
        shapes = [tuple(leaf.shape) for leaf in leaves(inputs)]
        raise LoopscopeError(f"the batch is empty (shapes {shapes}): expected at least one example")
    return batch


def _batch_of(tree: Tree, what: str) -> int:
    try:
        return batch_size(tree)
    except LoopscopeError as error:
        raise LoopscopeError(f"{what} {_outline(tree, _shape)}: {error}") from error


def state_dtype(state: Tree) -> torch.dtype:
    """Return the floating type in which a state's residuals are measured: float64 if the whole state is, else float32.

    Raises:
        LoopscopeError: the state has no floating tensor, or one that is complex or in half precision, in which residuals
            level off near 4e-3.

    Example:
        >>> state_dtype({"z": torch.zeros(2, 3), "steps": torch.zeros(2, dtype=torch.long)})
        torch.float32
    """
    check_real(state)
    types = {leaf.dtype for leaf in floating_leaves(state)}
    if not types or not types <= {torch.float32, torch.float64}:
        raise LoopscopeError(
            f"expected a state in float32 or float64, got {sorted(map(str, types)) or 'no floating tensor'}; "
            "convert the model with .float() (or .double()) first"
        )
    return torch.float64 if types == {torch.float64} else torch.float32


def check_real(state: Tree) -> None:
    """Refuse complex states.

    Raises:
        LoopscopeError: the state has a complex tensor.
    """
    if any(leaf.is_complex() for leaf in leaves(state)):
        raise LoopscopeError(
            "expected a state of real numbers, got complex ones: keep their real and imaginary parts (torch.view_as_real, "
            "and torch.view_as_complex inside the step)"
        )


def check_start(state: Tree, batch: int) -> None:
    """Refuse first states unless there is one per input.

    Raises:
        LoopscopeError: the numbers of first states and inputs differ, or the batch is not the first dimension.
    """
    states = _batch_of(state, "start returned")
    if states != batch:
        second = all(leaf.ndim > 1 and leaf.shape[1] == batch for leaf in leaves(state))
        hint = (
            "the batch is the second dimension; transpose it to the first in start, step and read"
            if second
            else "see start"
        )
        raise LoopscopeError(
            f"expected one first state per input, batch first, got {states} states for {batch} inputs: {hint}"
        )


def check_finite(state: Tree, mask: Bool[Tensor, "batch *tokens"] | None) -> None:
    """Refuse first states that contain NaN or infinity outside padding.

    Raises:
        LoopscopeError: a first state does; the message names the first such input.
    """
    wrong = torch.nonzero(~flatten(state, mask).isfinite().all(1)).flatten().tolist()
    if wrong:
        kind = "NaN" if bool(flatten(state, mask).isnan().any()) else "infinity"
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise LoopscopeError(
            f"the first state of input {wrong[0]}{others} contains {kind}, expected finite numbers: check the input, encode "
            "and start"
        )


def check_start_repeats(loop: Loop, recalled: Tree, seed: int) -> None:
    """Refuse a start that draws from the global random state: two runs would begin at different states.

    Raises:
        LoopscopeError: two calls with the same generator differ.
    """
    device = device_of(recalled)
    starts = []
    for other in (0, 1):
        with seeded(other, device):
            starts.append(first_state(loop, recalled, seed))
    if not _same(*starts):
        raise LoopscopeError(
            "start draws from the global random state, so that no run can be repeated: take a second argument, generator, "
            "and draw from it (torch.randn(..., generator=generator))"
        )


def check_read(logits: Any, batch: int) -> None:
    """Refuse a readout that is not one tensor of outputs per input.

    Raises:
        LoopscopeError: it is not a tensor, has another batch size, has no outputs, or is not floating.
    """
    expected = f"expected a tensor of shape ({batch}, ..., outputs)"
    if not isinstance(logits, Tensor):
        raise LoopscopeError(f"read returned {type(logits).__name__}, {expected}")
    shape = f"a tensor of shape {tuple(logits.shape)}"
    if logits.ndim < 2 or len(logits) != batch:
        raise LoopscopeError(f"read returned {shape}, {expected}")
    if not logits[:1].numel():
        raise LoopscopeError(f"read returned {shape}, which has no outputs, {expected}")
    if not logits.is_floating_point():
        raise LoopscopeError(
            f"read returned {shape} of {_precision(logits)}, {expected}: return logits, before they are compared or rounded"
        )


def check_outputs_last(logits: Tensor, state: Tree) -> None:
    """Refuse logits whose outputs come before their tokens, as in convolutions.

    The shapes show this: the logits have shape (batch, outputs, tokens) and the state has shape (batch, tokens, width).

    Raises:
        LoopscopeError: outputs come before tokens; the message names both shapes.
    """
    if logits.ndim < 3:
        return
    tokens, moved = logits.shape[1:-1], logits.shape[2:]
    grids = [leaf.shape for leaf in floating_leaves(state) if leaf.ndim == logits.ndim]
    if any(grid[1:-1] == tokens for grid in grids):
        return
    if any(moved in (grid[1:-1], grid[2:]) for grid in grids):
        raise LoopscopeError(
            f"read returned logits of shape {tuple(logits.shape)} for a state of shape {tuple(grids[0])}: outputs come last; "
            "move them there with logits.movedim(1, -1), or define the answers with answers=lambda logits: ..."
        )


def check_answers(answers: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return the answers that a function derives from logits, and refuse them unless there is one row per example.

    Raises:
        LoopscopeError: it is not a tensor, or has another number of rows.
    """
    answered = answers(logits)
    if not isinstance(answered, Tensor) or answered.shape[:1] != logits.shape[:1]:
        given = f"shape {tuple(answered.shape)}" if isinstance(answered, Tensor) else type(answered).__name__
        raise LoopscopeError(f"answers returned {given}, expected a tensor with one row per input ({len(logits)} rows)")
    return answered


def check_mask(loop: Loop, state: Tree, recalled: Tree) -> None:
    """Refuse a mask that fits no part of the state, or leaves an example without a real token.

    Raises:
        LoopscopeError: no floating tensor of the state has the mask's shape as its first dimensions, or it is all false.
    """
    mask = mask_of(loop, recalled)
    if mask is None:
        return
    shapes = ", ".join(str(tuple(leaf.shape)) for leaf in floating_leaves(state))
    if not mask.ndim or not any(mask_fits(leaf, mask) for leaf in floating_leaves(state)):
        raise LoopscopeError(
            f"the mask has shape {tuple(mask.shape)}, which fits no tensor of the state (shapes {shapes}): expected the first "
            "dimensions of one of them, (batch, tokens)"
        )
    empty = torch.nonzero(~mask.reshape(len(mask), -1).any(1)).flatten().tolist()
    if empty:
        raise LoopscopeError(
            f"the mask of input {empty[0]} is false everywhere, so no token is real: a mask is true where a token is real"
        )


def check_dynamics(loop: Loop, start: Tree, recalled: Tree) -> bool:
    """Return whether the state carries a clock; refuse a step that cannot be measured.

    The step is tried on the first two examples, at z_0 and at z_1. At z_0 alone, dropout or a mean over the batch would go
    unnoticed if the first state is zero.

    Raises:
        LoopscopeError: `check_step` or `check_independent` refuses the step, or the step fails on a part of the batch.
    """
    batch = batch_size(start)
    few = slice(0, PROBED)
    start, recalled = select(start, few), select(recalled, few)
    try:
        first = check_step(loop, start, recalled)
    except LoopscopeError:
        raise
    except Exception as error:
        if batch <= PROBED:
            raise
        raise LoopscopeError(
            f"the step fails on {PROBED} of {batch} examples ({_said(error)}): examples that have arrived leave the batch, so "
            "the step must take any number of them (a tensor of the whole batch must come from encode)"
        ) from error
    second = check_step(loop, first, recalled)
    check_independent(loop, first, second, recalled)
    return has_clock(start, first) or has_clock(first, second)


def check_step(loop: Loop, state: Tree, recalled: Tree) -> Tree:
    """Return the next state; refuse a step that cannot be repeated or that returns another kind of state.

    This costs two evaluations of the step. If they differ, a third one tells the causes apart.

    Raises:
        LoopscopeError: the step changes the state or the recalled input in place, two evaluations from the same state
            differ, or the new state has another structure, other shapes or another precision.
    """
    device = device_of(state)
    with torch.no_grad():
        before, given = (tree_map(torch.clone, tree) for tree in (state, recalled))
        with seeded(0, device):
            first = loop.step(state, recalled)
        for tree, copy, what in ((state, before, "state"), (recalled, given, "recalled input")):
            if not _same(tree, copy):
                raise LoopscopeError(
                    f"the step writes over the {what} that it is given (an operation in place, such as add_): it must return "
                    "a new one"
                )
        _check_repeats(loop, state, recalled, first)
    for kind, word in ((_shape, "of shape"), (_precision, "in")):
        taken, returned = (_outline(tree, kind) for tree in (before, first))
        if taken != returned:
            raise LoopscopeError(
                f"step turned a state {word} {taken} into {returned}: start and step must return states of the same "
                "structure, shapes and precision"
            )
    return first


def _check_repeats(loop: Loop, state: Tree, recalled: Tree, first: Tree) -> None:
    """Refuse a step that does not return ``first`` again because it is random or remembers earlier calls."""
    device = device_of(state)
    try:
        with seeded(1, device):
            second = loop.step(state, recalled)
        if _repeats(first, second):
            return
        with seeded(0, device):
            third = loop.step(state, recalled)
    except Exception as error:
        raise LoopscopeError(f"the step fails when it is called again ({_said(error)}): {_REMEMBERS}") from error
    if _repeats(first, third):
        raise LoopscopeError(
            "the step is random: two evaluations from one state differ; call .eval() on the model (FunctionLoop does this if "
            "given module=model), draw the noise once, in encode, or let step take a generator and draw from it"
        )
    raise LoopscopeError(f"the step gives another result when it is called again: {_REMEMBERS}")


_REMEMBERS = (
    "it remembers earlier calls (a counter, a cache or a random generator outside the state); carry what changes in the state, "
    "and switch caches off (use_cache=False)"
)


def check_independent(loop: Loop, before: Tree, after: Tree, recalled: Tree) -> None:
    """Refuse a step in which an example depends on the others: examples that have arrived leave the batch.

    This costs one evaluation of the step with a single example.

    Args:
        loop: the loop.
        before: a state of the whole batch. It should not be the first one, which may be zero and so hide a mean over the batch.
        after: the state one step later.
        recalled: the recalled input.

    Raises:
        LoopscopeError: an example moves differently alone, or the step fails with one example.
    """
    if batch_size(before) < 2:
        return
    if isinstance(loop, TimedLoop) and loop.wants.generator:
        _check_independent_of_values(loop, before, after, recalled)
        return
    before, together, recalled = (select(tree, slice(0, 1)) for tree in (before, after, recalled))
    with torch.no_grad():
        try:
            mask = mask_of(loop, recalled)
            alone, together = flatten(loop.step(before, recalled), mask), flatten(together, mask)
        except Exception as error:
            raise LoopscopeError(f"the step mixes examples: a single one fails ({_said(error)}) {_MIXES}") from error
    if alone.shape != together.shape or bool((alone - together).norm() > MIXED * together.norm()):
        raise LoopscopeError(f"the step mixes examples: a single one moves differently than in the batch {_MIXES}")


def _check_independent_of_values(loop: Loop, before: Tree, after: Tree, recalled: Tree) -> None:
    """Refuse a step that takes an example elsewhere beside a copy of itself: the noise of a place may differ by batch size."""
    doubled = torch.zeros(batch_size(before), dtype=torch.long, device=device_of(before))
    first = slice(0, 1)
    with torch.no_grad():
        beside = loop.step(select(before, doubled), select(recalled, doubled))
        mask = mask_of(loop, select(recalled, first))
        one, other = (flatten(select(tree, first), mask) for tree in (beside, after))
    if bool((one - other).norm() > MIXED * other.norm()):
        raise LoopscopeError(f"the step mixes examples: one goes elsewhere beside another {_MIXES}")


_MIXES = (
    "(batch normalization in train mode, a mean over the batch, a fixed batch size, a tensor of the whole batch that does not "
    "come from encode); examples must not depend on each other"
)


def _said(error: BaseException) -> str:
    """Return the kind and the first line of an exception."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}".removesuffix(": ")


def _outline(tree: Tree, of_leaf: Callable[[Tensor], Any]) -> Any:
    """Return the structure of a tree, with ``of_leaf`` applied to each tensor and the type of every other leaf."""
    if isinstance(tree, Tensor):
        return of_leaf(tree)
    parts = children(tree)
    if parts is None:
        return _Word("None" if tree is None else type(tree).__name__)
    said = {key: _outline(part, of_leaf) for key, part in parts.items()}
    return type(tree)(said.values()) if type(tree) in (list, tuple) else said


class _Word(str):
    """Text that shows itself without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def _shape(leaf: Tensor) -> Any:
    return tuple(leaf.shape)


def _precision(leaf: Tensor) -> Any:
    return _Word(str(leaf.dtype).removeprefix("torch."))


def _same(one: Tree, other: Tree) -> bool:
    first, second = leaves(one), leaves(other)
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs
    )


def _repeats(one: Tree, other: Tree) -> bool:
    """Return whether two results of one call are equal: bit for bit on the CPU, up to the order of sums on a GPU."""
    if _same(one, other):
        return not has_clock(one, other)
    if device_of(one).type == "cpu":
        return False
    first, second = flatten(one).double(), flatten(other).double()
    return bool(((first - second).norm(dim=1) <= _NONDETERMINISTIC * first.norm(dim=1)).all())
