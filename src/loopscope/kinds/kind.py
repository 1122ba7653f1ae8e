"""What kind a loop is. The loop says so itself: by the arguments of its step, or by a counter in its state."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from loopscope.errors import LoopscopeError
from loopscope.loop import Loop
from loopscope.trees import Tree

ITERATION, GENERATOR = "iteration", "generator"
"""What a step may ask for, by these names, besides the state and the recalled input."""


class Kind(StrEnum):
    """What the step of a loop depends on, besides its state and the recalled input.

    Example:
        >>> import loopscope as ls
        >>> ls.Kind.TIME_DEPENDENT.value, ls.Kind.TIME_DEPENDENT.changes_over_time, ls.Kind.TIME_DEPENDENT.is_random
        ('time-dependent', True, False)
    """

    AUTONOMOUS = "autonomous"
    TIME_DEPENDENT = "time-dependent"
    STOCHASTIC = "stochastic"
    TIME_DEPENDENT_AND_STOCHASTIC = "time-dependent and stochastic"

    @classmethod
    def of(cls, *, changes_over_time: bool, is_random: bool) -> Kind:
        """Return the kind of a loop whose step depends on the iteration, on random numbers, on both or on neither."""
        if is_random:
            return cls.TIME_DEPENDENT_AND_STOCHASTIC if changes_over_time else cls.STOCHASTIC
        return cls.TIME_DEPENDENT if changes_over_time else cls.AUTONOMOUS

    @property
    def changes_over_time(self) -> bool:
        """Whether the step depends on the iteration."""
        return self in (Kind.TIME_DEPENDENT, Kind.TIME_DEPENDENT_AND_STOCHASTIC)

    @property
    def is_random(self) -> bool:
        """Whether the step draws random numbers."""
        return self in (Kind.STOCHASTIC, Kind.TIME_DEPENDENT_AND_STOCHASTIC)


@dataclass(frozen=True)
class Wants:
    """What a step asks for, besides the state and the recalled input.

    Attributes:
        iteration: whether it takes ``iteration``, the number of iterations done before, 0 at the first.
        generator: whether it takes ``generator``, from which it draws random numbers.
    """

    iteration: bool = False
    generator: bool = False

    def __bool__(self) -> bool:
        return self.iteration or self.generator

    def signed(self, step: Callable[..., Tree]) -> Callable[..., Tree]:
        """Return ``step(state, recalled, **others)`` with a signature that asks for the same."""
        names = [
            "state",
            "recalled",
            *([ITERATION] if self.iteration else []),
            *([GENERATOR] if self.generator else []),
        ]

        def signed(state: Tree, recalled: Tree, **others: Any) -> Tree:
            return step(state, recalled, **others)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signed.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
        return signed


def wants_of(loop: Loop) -> Wants:
    """Return what the step of a loop asks for.

    Raises:
        LoopscopeError: it requires an argument of another name.

    Example:
        >>> import torch, loopscope as ls
        >>> noisy = ls.FunctionLoop(
        ...     encode=lambda x: x,
        ...     start=torch.zeros_like,
        ...     step=lambda z, e, generator: z / 2 + e + torch.randn(z.shape, generator=generator),
        ...     read=lambda z: z,
        ... )
        >>> wants_of(noisy)
        Wants(iteration=False, generator=True)
    """
    try:
        parameters = list(inspect.signature(loop.step).parameters.values())
    except ValueError:  # a built-in function has no signature
        return Wants()
    names = {one.name for one in parameters}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [one.name for one in parameters if one.default is inspect.Parameter.empty and one.kind not in variable]
    others = [name for name in required[2:] if name not in (ITERATION, GENERATOR)]
    if others:
        raise LoopscopeError(
            f"step takes ({', '.join(required)}), expected (state, recalled) and, by these names, iteration or generator: "
            f"rename {others[0]}, or carry it in the state"
        )
    return Wants(ITERATION in names, GENERATOR in names)
