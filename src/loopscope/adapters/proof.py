"""Proof that a loop is the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from loopscope.adapters.padding import at_real_tokens, padded, padding_mask, shortened
from loopscope.adapters.recording import seeded
from loopscope.adapters.running import told_in_one_line
from loopscope.errors import LoopscopeError, NotDefinedError
from loopscope.jacobian import Jacobian, in_precision, input_jacobian, random_vectors, step_jacobian
from loopscope.kinds import HeldLoop, timed
from loopscope.loop import Loop, readout
from loopscope.trees import HALF, Tree, batch_size, detached, flatten, select, tree_map

PROVEN_ITERATIONS = (1, 2, 3, 5)
"""Numbers of iterations for which a loop is compared with the model's own forward."""
TOLERANCE = 1e-5
"""Relative difference in float32 within which two outputs are the same."""
SLACK = 50
"""The same for other precisions, in units of their rounding error."""
DERIVATIVE_TOLERANCE = 1e-3
"""Relative difference within which a derivative agrees with a finite difference."""
ALONE_TOLERANCE = 1e-4
"""Relative difference allowed between batch sizes: kernels round differently, and iterations pass that on."""
HALF_TOLERANCE = 0.1
"""The same, for a derivative too, if a model computes in half precision whatever its weights are."""
LEAST_INFLUENCE = 0.1
"""A readout is of the state if another example's state moves it by this share of the way to that example's answer."""
COMPARED = 2**22
"""Numbers that are compared at once."""
STOPS_DERIVATIVES = "derivatives pass neither gradient checkpointing nor NumPy: switch them off inside an iteration"
DERIVATIVE_REMEDY = "let derivatives through the whole step: it detaches, or runs in another precision, somewhere"
CHANGES, LARGE_CHANGES = (0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4), (1.0, 0.5, 0.2, 0.1)
"""Finite changes of a state relative to its norm; rounding spoils the small ones, curvature the large ones."""

STENCILS: tuple[Mapping[int, float], ...] = (
    {1: 0.5, -1: -0.5},
    {0: -1.5, 1: 2.0, 2: -0.5},
    {0: 1.5, -1: -2.0, -2: 0.5},
)
"""Weights of values at multiples of a change whose sum is the derivative, up to the square of the change: of both sides, and of
either alone."""

Own = Callable[[Tree, int], Tensor]
"""The model's own forward: (inputs, iterations) -> logits."""


@dataclass(frozen=True)
class Check:
    """One condition that a loop must satisfy to be a model.

    Attributes:
        name: name of the check.
        claim: statement that is checked.
        error: deviation from the claim, or None if the check does not apply.
        allowed: largest error that passes.
        remedy: what to do if the check fails, or why it does not apply.
    """

    name: str
    claim: str
    error: float | None
    allowed: float
    remedy: str

    @property
    def holds(self) -> bool:
        """Whether the claim is true as far as it applies."""
        return self.error is None or self.error <= self.allowed

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.name}: not applicable, {self.remedy}"
        return f"{self.name}: {self.claim} (error {self.error:.1e}, allowed {self.allowed:.1e})"


@dataclass(frozen=True)
class Proof:
    """The checks that a loop passed, with their errors.

    Attributes:
        checks: checks in the order in which they were made.

    Example:
        >>> proof = Proof((Check("forward", "start, 1 steps and read equal the model's own forward", 0.0, 1e-5, ""),))
        >>> proof["forward"].holds
        True
        >>> print(proof)
        forward: start, 1 steps and read equal the model's own forward (error 0.0e+00, allowed 1.0e-05)
    """

    checks: tuple[Check, ...]

    def __getitem__(self, name: str) -> Check:
        """Return the check with this name."""
        return next(check for check in self.checks if check.name == name)

    def __str__(self) -> str:
        return "\n".join(str(check) for check in self.checks)


@runtime_checkable
class ProvenLoop(Loop, Protocol):
    """A loop that was made of a model, and can prove that it is the model.

    Attributes:
        proof: what was proven when it was made.
        in_half_precision: whether the model keeps its state in half precision.
    """

    proof: Proof | None

    @property
    def in_half_precision(self) -> bool:
        """Whether the model keeps its state in half precision."""

    def prove(self, inputs: Tree) -> Proof:
        """Return the proof on some inputs, or refuse."""


def prove(loop: Loop, own: Own, inputs: Tree, iterations: Sequence[int] = PROVEN_ITERATIONS) -> Proof:
    """Prove that a loop is a model.

    Args:
        loop: the loop; its ``iterations_before`` (0 by default) is the number of the model's iterations before its first
            state.
        own: the model's own forward, (inputs, iterations) -> logits.
        inputs: a few examples, batch first; at least two for the checks that compare examples.
        iterations: numbers of the model's iterations to compare.

    Raises:
        LoopscopeError: a check fails; the message says which, by how much, and what to do.

    Example:
        A loop written by hand for a model that iterates ``z -> tanh(A z + x)``, and forgets the input:

        >>> import torch
        >>> import loopscope as ls
        >>> A = torch.tensor([[0.5, 0.2], [-0.3, 0.4]])
        >>> def model(x, iterations):
        ...     z = torch.zeros_like(x)
        ...     for _ in range(iterations):
        ...         z = torch.tanh(z @ A + x)
        ...     return z
        >>> inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> right = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(z @ A + x), lambda z: z)
        >>> prove(right, model, inputs)["forward"].error
        0.0
        >>> wrong = ls.FunctionLoop(lambda x: x, torch.zeros_like, lambda z, x: torch.tanh(z @ A), lambda z: z)
        >>> prove(wrong, model, inputs)
        Traceback (most recent call last):
            ...
        loopscope.errors.LoopscopeError: the loop is not the model: expected that start, 1, 2, 3, 5 steps and read ...
    """
    checks = []
    prover = _Prover(loop, own, inputs, iterations)
    for make in (
        prover.forward,
        prover.memory,
        prover.alone,
        prover.derivative,
        prover.input,
        prover.padding,
        prover.readout,
    ):
        what = f"the loop is not the model: it does not run where its {make.__name__} is checked"
        with told_in_one_line(what, STOPS_DERIVATIVES if make in (prover.derivative, prover.input) else ""):
            check = make()
        checks.append(required(check))
    return Proof(tuple(checks))


def required(check: Check) -> Check:
    """Return a check that holds.

    Raises:
        LoopscopeError: it does not hold.
    """
    if not check.holds:
        raise LoopscopeError(
            f"the loop is not the model: expected that {check.claim}, but the error is {check.error:.1e} (allowed "
            f"{check.allowed:.1e}); {check.remedy}"
        )
    return check


class _Prover:
    def __init__(self, loop: Loop, own: Own, inputs: Tree, iterations: Sequence[int]) -> None:
        self.given, self.loop, self.own, self.inputs, self.iterations = loop, timed(loop), own, inputs, iterations
        self.batch = batch_size(inputs)
        self.before = getattr(loop, "iterations_before", 0)
        # In another order, so that a loop that kept something from its making is noticed.
        self.turned = select(inputs, torch.arange(self.batch).flip(0))

    def forward(self) -> Check:
        errors, allowed = [0.0], TOLERANCE
        for inputs in (self.inputs, self.turned, *shortened(self.inputs)):
            for count in self.iterations:
                with torch.no_grad():
                    with seeded(inputs, 0):
                        wanted = self.own(inputs, count)
                    found = self._run(self.loop, inputs, count)
                errors.append(relative_gap(*at_real_tokens(found, wanted, padding_mask(inputs))))
                allowed = tolerance_for([wanted])
        return Check(
            name="forward",
            claim=f"start, {', '.join(str(n - self.before) for n in self.iterations)} steps and read equal the model's own forward",
            error=max(errors),
            allowed=allowed,
            remedy="name another call (ls.find_loops lists them), or give every=, offset= or run=",
        )

    def memory(self) -> Check:
        """Whether steps depend on what was computed between them."""
        with torch.no_grad():
            recalled, other = self.loop.encode(self.inputs), self.loop.encode(self.turned)
            state, turned = self._started(self.loop, recalled), self._started(self.loop, other)
            held = _versions(self.given)
            first = flatten(self.loop.step(state, recalled))
            errors = [relative_gap(flatten(self.loop.step(state, recalled)), first)]
            self.loop.step(self.loop.step(turned, other), other)
            errors.append(relative_gap(flatten(self.loop.step(state, recalled)), first))
            readout(self.loop, turned, other)
            errors.append(relative_gap(flatten(self.loop.step(state, recalled)), first))
        changed = held != _versions(self.given)
        return Check(
            name="memory",
            claim="a step depends on nothing that an earlier call has left",
            error=1.0 if changed else max(errors),
            allowed=0.0,
            remedy="switch caches off, or make what the model keeps between calls a part of its arguments",
        )

    def derivative(self) -> Check:
        loop, state, recalled = self._at_a_state()
        changes, allowed = self._changes()
        error = _error_of(step_jacobian(HeldLoop(loop), state, recalled), changes, allowed)
        return Check("derivative", "J v by autograd equals a finite difference", error, allowed, DERIVATIVE_REMEDY)

    def input(self) -> Check:
        claim = "the derivative in the recalled input equals a finite difference"
        loop, state, recalled = self._at_a_state()
        changes, allowed = self._changes()
        try:
            error = _error_of(input_jacobian(HeldLoop(loop), state, recalled), changes, allowed)
        except NotDefinedError:
            return Check("input", claim, None, allowed, "no floating number is recalled")
        return Check("input", claim, error, allowed, DERIVATIVE_REMEDY)

    def _changes(self) -> tuple[Sequence[float], float]:
        """Return the finite changes that suit the loop's precision, and the largest error of a derivative."""
        return (LARGE_CHANGES, HALF_TOLERANCE) if self.coarse else (CHANGES, DERIVATIVE_TOLERANCE)

    def alone(self) -> Check:
        claim, remedy = (
            "an example alone gives what it gives in the batch",
            "what mixes examples, or is made for a whole batch, must be per example",
        )
        if self.batch < 2:
            return Check("alone", claim, None, ALONE_TOLERANCE, "there is one example only")
        loop, inputs = self.fine
        with torch.no_grad():
            recalled = loop.encode(inputs)
            state = self._started(loop, recalled)
            together = readout(loop, _stepped(loop, state, recalled), recalled)
            errors = []
            for row in {0, self.batch - 1}:
                rows = slice(row, row + 1)
                for one in (loop.encode(select(inputs, rows)), select(recalled, rows)):
                    logits = readout(loop, _stepped(loop, select(state, rows), one), one)
                    errors.append(relative_gap(logits, together[rows]))
        return Check("alone", claim, max(errors), self._tolerance_of_shapes(together), remedy)

    def padding(self) -> Check:
        claim, remedy = (
            "padding does not matter to real tokens",
            "pass the mask on to all that attends or mixes tokens (attention_mask among the inputs)",
        )
        if padding_mask(self.inputs) is None:
            return Check("padding", claim, None, ALONE_TOLERANCE, "the inputs have no mask")
        errors, count = [0.0], 2 + self.before
        loop, inputs = self.fine
        with torch.no_grad():
            for shorter in (inputs, *shortened(inputs)):
                mask = padding_mask(shorter)
                plain, longer = (self._run(loop, one, count) for one in (shorter, padded(shorter)))
                errors.append(relative_gap(*at_real_tokens(longer[:, : plain.shape[1]], plain, mask)))
        return Check("padding", claim, max(errors), self._tolerance_of_shapes(plain), remedy)

    def readout(self) -> Check:
        """Whether the readout is of the state, and not of the inputs."""
        claim = f"another example's state moves the readout at least {LEAST_INFLUENCE:.0%} of the way to that example's answer"
        remedy = "read must answer from the state it is given, not from the inputs"
        with torch.no_grad():
            recalled = self.loop.encode(self.inputs)
            state = _stepped(self.loop, self._started(self.loop, recalled), recalled)
            own = readout(self.loop, state, recalled)
            swapped = readout(self.loop, tree_map(lambda leaf: leaf.roll(1, 0), state), recalled)
        distance = torch.linalg.vector_norm(own.roll(1, 0) - own)
        if self.batch < 2 or not distance > 0:
            return Check("readout", claim, None, 1 - LEAST_INFLUENCE, "no two examples have different answers")
        influence = float(torch.linalg.vector_norm(swapped - own) / distance)
        return Check("readout", claim, 1 - influence, 1 - LEAST_INFLUENCE, remedy)

    # Parts

    @cached_property
    def fine(self) -> tuple[Loop, Tree]:
        """The loop and its inputs; a module in half precision as a copy in float32, whose rounding hides less."""
        if not isinstance(self.given, nn.Module) or not any(one.dtype in HALF for one in self.given.parameters()):
            return self.loop, self.inputs
        loop, inputs, _ = in_precision(self.given, self.inputs, (), torch.float32)
        return timed(loop), inputs

    @property
    def coarse(self) -> bool:
        """Whether even that loop computes in half precision, so that a good part of each small difference is rounding."""
        return getattr(self.given, "in_half_precision", False) and self.fine[0] is self.loop

    def _tolerance_of_shapes(self, logits: Tensor) -> float:
        """Return how far the same logits may be from each other if they are computed in batches of different shapes."""
        return HALF_TOLERANCE if self.coarse else max(ALONE_TOLERANCE, tolerance_for([logits]))

    def _at_a_state(self) -> tuple[Loop, Tree, Tree]:
        """Return the loop with a state and its recalled input."""
        loop, inputs = self.fine
        with torch.no_grad():
            recalled = loop.encode(inputs)
            state = _stepped(loop, self._started(loop, recalled), recalled, 1)
        return loop, detached(state), detached(recalled)

    def _started(self, loop: Loop, recalled: Tree) -> Tree:
        with seeded(self.inputs, 0):
            return loop.start(recalled)

    def _run(self, loop: Loop, inputs: Tree, count: int) -> Tensor:
        recalled = loop.encode(inputs)
        state = _stepped(loop, self._started(loop, recalled), recalled, count - self.before)
        return readout(loop, state, recalled)


def _stepped(loop: Loop, state: Tree, recalled: Tree, steps: int = 2) -> Tree:
    for _ in range(steps):
        state = loop.step(state, recalled)
    return state


def _error_of(jacobian: Jacobian, changes: Sequence[float], allowed: float) -> float:
    """Return how far products with a Jacobian are from finite differences, at the change that suits each example best.

    A step may jump beside a state, as a mixture of experts does. Where two-sided differences are too far away, those of one side
    count as well.
    """
    vectors = random_vectors(jacobian.batch, jacobian.size, jacobian.point, torch.Generator().manual_seed(0))
    found = jacobian.jvp(vectors) if jacobian.depends else torch.zeros_like(jacobian.value)
    size = torch.linalg.vector_norm(jacobian.point, dim=1, keepdim=True)
    moves = [change * torch.where(size > 0, size, 1.0) for change in changes]
    error = float("inf")
    best = [error] * jacobian.batch
    for weights in STENCILS:
        for move in moves:
            finite = _combined(jacobian, move * vectors, weights) / move
            gaps = [relative_gap(one, other) for one, other in zip(found, finite, strict=True)]
            best = [min(pair) for pair in zip(best, gaps, strict=True)]
        if (error := max(best)) <= allowed:
            break
    return error


def _combined(jacobian: Jacobian, move: Tensor, weights: Mapping[int, float]) -> Tensor:
    """Return the sum of weighted values at multiples of a move from a Jacobian's point."""
    with torch.no_grad():
        values = [
            weight * jacobian.function(jacobian.point + k * move, jacobian.context) for k, weight in weights.items()
        ]
    return torch.stack(values).sum(0)


def _versions(loop: Loop) -> list[int]:
    """Return how often each parameter and buffer was written to."""
    if not isinstance(loop, nn.Module):
        return []
    return [tensor._version for tensor in (*loop.parameters(), *loop.buffers()) if not tensor.is_inference()]


def relative_gap(one: Tensor, other: Tensor) -> float:
    """Return the norm of a difference relative to the second tensor; infinite if any value is not finite."""
    if one.shape != other.shape:
        return float("inf")
    # In parts, since the logits of a language model are many.
    pairs = zip(*(tensor.reshape(-1).split(COMPARED) for tensor in (one, other)), strict=True)
    norms = [[torch.linalg.vector_norm(part) for part in (a.double() - b.double(), b.double())] for a, b in pairs]
    gap, size = (torch.stack(parts).norm() for parts in zip(*norms, strict=True))
    found = float(gap / size.clamp_min(torch.finfo(torch.float32).tiny))
    return found if found == found else float("inf")


def tolerance_for(tensors: Sequence[Tensor]) -> float:
    """Return the relative difference within which tensors of this precision count as equal."""
    return max(
        TOLERANCE, SLACK * max(torch.finfo(tensor.dtype).eps for tensor in tensors if tensor.is_floating_point())
    )
