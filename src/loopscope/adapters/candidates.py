"""The calls that a model repeats: candidates for the call that is one iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from loopscope.adapters.calls import Callee, modules_of, replaced
from loopscope.adapters.paths import tensors_by_path
from loopscope.adapters.recording import ITERATIONS, seeded
from loopscope.adapters.running import Run, runner, told_in_one_line
from loopscope.trees import Tree

SHOWN = 8
"""Candidates that an error message lists."""
LIBRARIES = (
    "torch.",
    "transformers.modeling_utils",
    "transformers.generation",
    "transformers.integrations",
    "builtins",
)
"""Modules whose classes have methods that do not belong to a model's forward."""


@dataclass(frozen=True)
class Candidate:
    """A submodule or method that was called repeatedly.

    Attributes:
        name: pass it to `loopscope.capture` as ``at``.
        calls: number of calls.
        self_fed: number of calls that took a tensor returned by the previous call.
        shapes: shapes of the tensors that it returns.
        inside: names of the enclosing calls, outermost first.
    """

    name: str
    calls: int
    self_fed: int
    shapes: tuple[tuple[int, ...], ...]
    inside: tuple[str, ...]

    def __str__(self) -> str:
        fed = (
            "each fed by the one before"
            if self.self_fed == self.calls - 1
            else f"{self.self_fed} fed by the one before"
        )
        shapes = ", ".join(str(shape) for shape in self.shapes[:3])
        return f"{self.name}: {self.calls} calls, {fed if self.self_fed else 'none fed by the one before'}, returns {shapes}"


@dataclass
class _Count:
    calls: int = 0
    self_fed: int = 0
    returned: list[Tensor] | None = None
    inside: tuple[str, ...] = ()
    opened: set[str] = field(default_factory=set)


def callables_of(model: nn.Module) -> dict[str, Callee]:
    """Return every submodule of a model, and every method that its own classes define, by name."""
    found = modules_of(model)
    for name, callee in list(found.items()):
        prefix = "" if name == "forward" else f"{name}."
        for method in _methods(type(callee.owner)):
            found[prefix + method] = Callee(prefix + method, callee.owner, method)
    return found


def _methods(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        if base is nn.Module or base.__module__.startswith(LIBRARIES) or base is object:
            continue
        for name, member in vars(base).items():
            if callable(member) and hasattr(member, "__code__") and not name.startswith("__") and name != "forward":
                yield name


class Survey:
    """Counts the calls of a model's submodules and methods while it runs."""

    def __init__(self, callees: dict[str, Callee]) -> None:
        self.callees = callees
        self.counts: dict[str, _Count] = {}
        self._stack: list[str] = []

    def run(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` and count the calls within it."""
        with ExitStack() as stack:
            for name, callee in self.callees.items():
                stack.enter_context(replaced(callee, partial(self._count, name, callee.function)))
            stack.enter_context(torch.no_grad())
            return function()

    def _count(self, name: str, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        count = self.counts.setdefault(name, _Count())
        before = count.returned or []
        count.calls += 1
        count.self_fed += any(one is other for one in tensors_by_path((args, kwargs)).values() for other in before)
        count.inside = tuple(self._stack)
        count.opened.update(self._stack)
        self._stack.append(name)
        try:
            returned = original(*args, **kwargs)
        finally:
            self._stack.pop()
        count.returned = list(tensors_by_path(returned).values())
        return returned

    def _is_part_of_another(self, count: _Count) -> bool:
        return any(self.counts[name].calls == count.calls for name in count.inside)

    def candidates(self) -> list[Candidate]:
        """Return the repeated calls that return tensors: those fed by themselves first, then the least nested."""
        found = [
            Candidate(name, count.calls, count.self_fed, tuple(tuple(t.shape) for t in count.returned), count.inside)
            for name, count in self.counts.items()
            if count.calls > 1 and count.returned and not self._is_part_of_another(count)
        ]
        return sorted(found, key=lambda one: (one.self_fed < one.calls - 1, one.self_fed == 0, len(one.inside)))


def find_loops(model: nn.Module, inputs: Tree, run: Callable[..., Any] | None = None) -> list[Candidate]:
    """Run a model once and list the submodules and methods that it calls repeatedly, the likeliest loops first.

    Args:
        model: any module, in eval mode.
        inputs: the model's inputs: a mapping of keywords, a tuple of arguments, or one tensor.
        run: function that runs the model, ``run(model, inputs)``; ``model(inputs)`` by default.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Looped(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.core, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        ...
        ...     def forward(self, x):
        ...         h = self.embed(x)
        ...         for _ in range(4):
        ...             h = self.core(h)
        ...         return self.head(h)
        >>> for candidate in find_loops(Looped(), torch.ones(2, 3)):
        ...     print(candidate)
        core: 4 calls, each fed by the one before, returns (2, 8)
    """
    return survey(model, runner(model, run), inputs).candidates()


def survey(model: nn.Module, run: Run, inputs: Tree) -> Survey:
    """Run a model once and count its calls.

    Raises:
        LoopscopeError: the model does not run on these inputs.
    """
    counted = Survey(callables_of(model))
    remedy = "give inputs that its forward takes, or run=lambda model, inputs: ... that runs it"
    with seeded(inputs, 0), told_in_one_line("the model does not run on these inputs", remedy):
        counted.run(lambda: run(model, inputs, ITERATIONS))
    return counted


def listing(candidates: list[Candidate]) -> str:
    """Return a list of candidates for an error message."""
    if not candidates:
        return "it calls nothing repeatedly"
    return "it calls repeatedly: " + "; ".join(str(candidate) for candidate in candidates[:SHOWN])
