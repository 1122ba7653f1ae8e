"""A tape: what a model's open frames did in one run, event by event, and which values went from event to event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopscope.adapters.calls import Handler, operation_name
from loopscope.adapters.gradients import hides
from loopscope.adapters.paths import Path, tensors_by_path

UNINITIALIZED = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
"""Functions that return memory as they find it."""


class Place(NamedTuple):
    """Which event: the n-th call of ``name`` in a stretch of the run. Stretch k ends with the k-th iteration."""

    stretch: int
    name: str
    occurrence: int

    def __str__(self) -> str:
        return self.name if self.occurrence == 0 else f"{self.name} (call {self.occurrence + 1})"


@dataclass(frozen=True)
class Event:
    """A call that an open frame made, with the values that went in and came out.

    Attributes:
        place: which one it is.
        is_call: whether a submodule or method was called, not a function of PyTorch.
        inputs: number of the value at each path of (args, kwargs).
        outputs: number of the value at each path of what was returned.
        written: numbers of values that it wrote into tensors in place.
        arguments: (args, kwargs) of the calls that end an iteration, else None.
        returned: what a call returned.
    """

    place: Place
    is_call: bool
    inputs: Mapping[Path, int]
    outputs: Mapping[Path, int]
    written: tuple[int, ...]
    arguments: Any = None
    returned: Any = None

    @property
    def made(self) -> set[int]:
        """The values that did not exist before."""
        return set(self.outputs.values()).union(self.written) - set(self.inputs.values())


@dataclass
class Tape:
    """The events of one run, in order.

    Attributes:
        events: in order.
        tensors: the tensor of each value.
        stretches: iterations that ended.
        calls: how often the named submodule or method was called.
        hidden: whether something was hidden from autograd.
        output: what the run returned.
    """

    events: list[Event] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    stretches: int = 0
    calls: int = 0
    hidden: bool = False
    output: Any = None

    def in_stretch(self, stretch: int) -> list[Event]:
        """Return the events of one stretch."""
        return [event for event in self.events if event.place.stretch == stretch]

    def makers(self) -> dict[int, Event]:
        """Return the event that made each value; inputs and parameters have none."""
        return {value: event for event in self.events for value in event.made}

    def behind(self, values: Iterable[int], until: Callable[[Event], bool] = lambda event: False) -> set[int]:
        """Return the values that some values were made from, themselves included.

        Args:
            values: where to begin.
            until: events that are not looked behind.
        """
        needed = set(values)
        for event in reversed(self.events):
            if event.made & needed and not until(event):
                needed.update(event.inputs.values())
        return needed


class Recorder(Handler):
    """Writes a tape.

    Args:
        name: of the submodule or method that ends an iteration.
        every: calls of it per iteration.
        offset: calls of it before the first iteration.
    """

    def __init__(self, name: str, every: int, offset: int) -> None:
        self.tape = Tape()
        self.name, self.every, self.offset = name, every, offset
        self._numbers: dict[int, tuple[int, int]] = {}
        self._seen: Counter[tuple[int, str]] = Counter()

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write a call down; the one that ends an iteration begins the next stretch."""
        returned = self._written_down(name, function, args, kwargs, is_call=True)
        if name == self.name:
            self.tape.calls += 1
            done, rest = divmod(self.tape.calls - self.offset, self.every)
            self.tape.stretches = done if rest == 0 else self.tape.stretches
        return returned

    def operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Write an operation down."""
        self.inside(function)
        return self._written_down(operation_name(function), function, args, kwargs, is_call=False)

    def inside(self, function: Callable[..., Any]) -> None:
        """Notice what hides a part of an iteration from autograd."""
        if self.tape.stretches > 0:
            self.tape.hidden = self.tape.hidden or hides(function)

    def value(self, tensor: Tensor) -> int:
        """Return the number of a tensor's present value; one that was changed in place has a new one."""
        number, version = self._numbers.get(id(tensor), (-1, -1))
        if number < 0 or version != tensor._version:
            number = len(self.tape.tensors)
            self.tape.tensors.append(tensor)
            self._numbers[id(tensor)] = (number, tensor._version)
        return number

    def _written_down(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        is_call: bool,
    ) -> Any:
        stretch = self.tape.stretches
        place = Place(stretch, name, self._seen[stretch, name])
        self._seen[stretch, name] += 1
        given = tensors_by_path((args, dict(kwargs)))
        inputs = {path: self.value(tensor) for path, tensor in given.items()}
        returned = function(*args, **kwargs)
        if name in UNINITIALIZED and returned.is_floating_point():
            returned.fill_(torch.nan)
        outputs = {path: self.value(tensor) for path, tensor in tensors_by_path(returned).items()}
        written = {self.value(tensor) for tensor in given.values()} - set(inputs.values()) - set(outputs.values())
        if outputs or written:
            kept = ((args, dict(kwargs)), returned) if is_call else (None, None)
            self.tape.events.append(Event(place, is_call, inputs, outputs, tuple(written), *kept))
        return returned
