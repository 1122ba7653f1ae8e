"""The loop, the idea that the whole package is built on.

A looped model is four functions. ``encode`` turns inputs into everything that stays the same over iterations
(the *recalled* input), ``start`` makes the first state, ``step`` is one iteration, and ``read`` turns a state into a
prediction. Models are loops. Solvers, training, evaluation and examination work on loops, and neither side knows how the
other works inside.

Inputs, recalled inputs and states are trees of tensors, batch first (see `loopscope.trees`). Leaves of the state that are
not floating are left out of norms and derivatives. If a step changes such a leaf, the leaf is a clock, and the loop is
time-dependent.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from loopscope.errors import LoopscopeError, check_choice
from loopscope.trees import Tree, batch_size, device_of, has_clock, select, unchanging_leaves

AnswersPer = Literal["example", "token"]
"""What one answer of a loop belongs to."""


@runtime_checkable
class Loop(Protocol):
    """The protocol of looped models: any object with these four methods is a loop.

    A loop may have four more members. ``mask(recalled) -> Bool[Tensor, "batch tokens"]`` is true where a token is real; padding
    is then excluded from norms, swaps and accuracy. ``outer_gain`` is the gain of the normalization that ends each iteration
    (None if there is none); it determines the direction that this normalization removes. ``answers_per`` is "token" for a loop
    that gives an answer at every token that is read, such as a language model, whose answers are counted by token. By default,
    the tokens of an example form one answer. ``part_radii`` maps names of parts of the step to their spectral radii, as far as
    the loop knows them; examinations show them beside the growth of errors in the whole step.

    Example:
        >>> import torch, loopscope as ls
        >>> class Halving(torch.nn.Module):
        ...     def encode(self, inputs):
        ...         return inputs
        ...     def start(self, recalled):
        ...         return torch.zeros_like(recalled)
        ...     def step(self, state, recalled):
        ...         return state / 2 + recalled
        ...     def read(self, state):
        ...         return state
        >>> isinstance(Halving(), ls.Loop)
        True
        >>> ls.solve(Halving(), torch.tensor([[1.0, -3.0]]), tolerance=1e-6).state.round(decimals=3)
        tensor([[ 2., -6.]])
    """

    def encode(self, inputs: Tree) -> Tree:
        """Return what stays the same over iterations, computed once per problem."""

    @property
    def start(self) -> Callable[..., Tree]:
        """The first state z_0: ``start(recalled)``, or ``start(recalled, generator)`` if it is drawn at random."""

    @property
    def step(self) -> Callable[..., Tree]:
        """The next state f(z, e), of the same structure and shapes: ``step(state, recalled)``.

        A step that depends on time also takes ``iteration``, the number of iterations done before. One that draws random
        numbers also takes ``generator`` (see `loopscope.kinds`).
        """

    @property
    def read(self) -> Callable[..., Tensor]:
        """The prediction (logits) of a state: ``read(state)``, or ``read(state, recalled)`` if it needs both."""


def readout(loop: Loop, state: Tree, recalled: Tree) -> Tensor:
    """Return a loop's prediction, passing the recalled input to its ``read`` if that takes it.

    Logits in half precision are returned in float32.

    Args:
        loop: the loop.
        state: a state of the loop.
        recalled: what ``loop.encode`` returned for the same examples.
    """
    logits = loop.read(state, recalled) if _takes_recalled(loop.read) else loop.read(state)
    half = isinstance(logits, Tensor) and logits.dtype in (torch.float16, torch.bfloat16)
    return logits.float() if half else logits


def first_state(loop: Loop, recalled: Tree, seed: int = 0) -> Tree:
    """Return a loop's own first state, passing a seeded generator to its ``start`` if that takes one.

    Args:
        loop: the loop.
        recalled: what ``loop.encode`` returned.
        seed: seed of the generator, which is on the device of the recalled input.
    """
    return start_from(loop, recalled, torch.Generator(device_of(recalled)).manual_seed(seed))


def start_from(loop: Loop, recalled: Tree, generator: torch.Generator | None) -> Tree:
    """Return a loop's first state, passing the generator to its ``start`` if that takes one."""
    way = _generator_parameter(loop.start)
    if way is None:
        return loop.start(recalled)
    return loop.start(recalled, generator) if way is _POSITIONAL else loop.start(recalled, generator=generator)


def is_time_dependent(loop: Loop, state: Tree, recalled: Tree) -> bool:
    """Return whether the state carries a clock, which is a leaf that is not a floating tensor and that two steps change.

    Leaves that do not change, such as ids and masks, are context. This costs two evaluations of the step with one example, or
    none if all leaves are floating tensors.

    Args:
        loop: the loop.
        state: a state, usually the first.
        recalled: what ``loop.encode`` returned for the same examples.
    """
    if not batch_size(state) or not unchanging_leaves(state):
        return False
    one = slice(0, 1)
    before, recalled = select(state, one), select(recalled, one)
    with torch.no_grad():
        for _ in range(2):
            after = loop.step(before, recalled)
            if has_clock(before, after):
                return True
            before = after
    return False


def _takes_recalled(read: Callable[..., Tensor]) -> bool:
    """Return whether a readout has a second argument that is required or named ``recalled``."""
    try:
        parameters = list(inspect.signature(read).parameters.values())
    except ValueError:  # a built-in function has no signature
        return False
    second = parameters[1] if len(parameters) > 1 else None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return second is not None and (
        second.name == "recalled" or (second.kind in positional and second.default is inspect.Parameter.empty)
    )


_POSITIONAL, _BY_NAME = "positional", "by name"
"""How ``start`` takes its generator."""


def _generator_parameter(start: Callable[..., Tree]) -> str | None:
    """Return how ``start`` takes a generator: by the name ``generator``, or as a required second argument."""
    try:
        parameters = inspect.signature(start).parameters
    except ValueError:  # a built-in function such as torch.zeros_like has no signature
        return None
    if "generator" in parameters:
        return _BY_NAME
    second = list(parameters.values())[1:2]
    required = [one for one in second if one.kind in _BY_PLACE and one.default is inspect.Parameter.empty]
    return _POSITIONAL if required else None


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class FunctionLoop:
    """A loop made of four functions.

    Args:
        encode: inputs -> recalled.
        start: recalled -> state, or (recalled, generator) -> state for a random start. A second parameter counts as the
            generator if it is named ``generator`` or has no default.
        step: (state, recalled) -> state. It may also take ``iteration``, the number of iterations done before (0 at the
            first), and ``generator``, from which it draws random numbers, both by name.
        read: state -> logits, or (state, recalled) -> logits if the readout needs more than the state.
        padding: optional, recalled -> Bool[Tensor, "batch tokens"], true where a token is real.
        module: the model that the functions use, if any. It is put in eval mode for measurements and converted for those in
            another precision. Its device is the device of the loop. A module need not be named if one of the four functions is
            the module itself or one of its methods.
        outer_gain: the gain of the normalization that ends each iteration, if there is one.
        answers_per: "token" if every token that is read has an answer of its own, as in a language model, or "example" if the
            tokens of an example form one answer.

    Example:
        >>> import torch, loopscope as ls
        >>> cell = torch.nn.GRUCell(3, 5)
        >>> loop = ls.FunctionLoop(
        ...     encode=lambda inputs: inputs,
        ...     start=lambda recalled: recalled.new_zeros(len(recalled), 5),
        ...     step=lambda state, recalled: cell(recalled, state),
        ...     read=lambda state: state,
        ...     module=cell,
        ... )
        >>> ls.solve(loop, torch.ones(2, 3)).state.shape
        torch.Size([2, 5])
    """

    encode: Callable[[Tree], Tree]
    start: Callable[..., Tree]
    step: Callable[..., Tree]
    read: Callable[..., Tensor]
    padding: Callable[[Tree], Tensor | None] | None = None
    module: torch.nn.Module | None = None
    outer_gain: Tensor | None = field(default=None, compare=False)
    answers_per: AnswersPer = "example"

    def mask(self, recalled: Tree) -> Tensor | None:
        """Return the mask of real tokens, or None if every token is real."""
        return None if self.padding is None else self.padding(recalled)


def modules_of(loop: Loop) -> list[torch.nn.Module]:
    """Return the modules that a loop consists of: the loop itself, or those that a ``FunctionLoop`` wraps."""
    if isinstance(loop, torch.nn.Module):
        return [loop]
    if not isinstance(loop, FunctionLoop):
        return []
    parts = (loop.encode, loop.start, loop.step, loop.read, loop.padding)
    found = [loop.module, *parts, *(getattr(part, "__self__", None) for part in parts)]
    unique = {id(one): one for one in found if isinstance(one, torch.nn.Module)}
    return list(unique.values())


def mask_of(loop: Loop, recalled: Tree) -> Bool[Tensor, "batch *tokens"] | None:
    """Return the loop's mask of real tokens, or None if it has none.

    Raises:
        LoopscopeError: the mask is not a tensor of booleans.
    """
    given = getattr(loop, "mask", None)
    mask = None if given is None else given(recalled)
    if mask is not None and getattr(mask, "dtype", None) != torch.bool:
        raise LoopscopeError(
            f"the mask is {getattr(mask, 'dtype', type(mask).__name__)}, expected torch.bool, true where a token is real: "
            "compare (mask > 0), or call .bool()"
        )
    return mask


def answers_per(loop: Loop) -> AnswersPer:
    """Return whether a loop's answers are counted by example or by token.

    Raises:
        LoopscopeError: the loop says something else.
    """
    said: AnswersPer = getattr(loop, "answers_per", "example")
    check_choice("answers_per of the loop", said, get_args(AnswersPer))
    return said


def outer_gain_of(loop: Loop) -> Float[Tensor, "width"] | None:
    """Return the gain of the normalization that ends each iteration, or None if the loop does not name one."""
    gain = getattr(loop, "outer_gain", None)
    return None if gain is None else gain.detach()


def iterate(loop: Loop, state: Tree, recalled: Tree, iterations: int) -> Tree:
    """Return the state after ``iterations`` further steps."""
    for _ in range(iterations):
        state = loop.step(state, recalled)
    return state
