"""A tape: what a model's open frames did in one run, event by event, and the values passed between events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopscope.adapters.calls import Handler
from loopscope.adapters.gradients import KEEPING_VALUES, hides
from loopscope.adapters.paths import Path, tensors_by_path, worded
from loopscope.errors import LoopscopeError

UNINITIALIZED = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
"""Functions that return uninitialized memory."""


class Place(NamedTuple):
    """The place of an event in a run.

    Attributes:
        stretch: part of the run; stretch k ends with iteration k, counted from 0.
        name: name of the called function.
        occurrence: number of earlier calls of it in the stretch; for an operation, since the last call.
        after: last call before an operation, or "" for a call. Operations are counted from the nearest call because the
            code between calls may depend on the inputs (masks are made only if there is padding).
    """

    stretch: int
    name: str
    occurrence: int
    after: str = ""

    def __str__(self) -> str:
        return self.name if self.occurrence == 0 else f"{self.name} (call {self.occurrence + 1})"


@dataclass(frozen=True)
class Ends:
    """The calls that end an iteration.

    Attributes:
        name: name of the submodule or method.
        every: its calls per iteration.
        offset: its calls before the first iteration.
        parameters: names of its parameters, in order.
    """

    name: str
    every: int = 1
    offset: int = 0
    parameters: tuple[str, ...] = ()

    def iterations(self, calls: int) -> int:
        """Return how many iterations have ended after this number of calls."""
        return max(0, calls - self.offset) // self.every

    def argument(self, path: Path) -> str:
        """Return the name of the argument at a path in (args, kwargs)."""
        positional, first, *rest = path
        if positional == 0 and first < len(self.parameters):
            first = self.parameters[first]
        return worded((first, *rest))


class Places:
    """Gives each event its place."""

    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        self.stretch = self.calls = 0
        self._after = ""
        self._calls_seen: Counter[str] = Counter()
        self._operations_seen: Counter[str] = Counter()

    def of_call(self, name: str) -> Place:
        """Return the place of a call that is about to begin."""
        place = Place(self.stretch, name, self._calls_seen[name])
        self._calls_seen[name] += 1
        self._after = str(place)
        self._operations_seen.clear()
        return place

    def of_operation(self, name: str) -> Place:
        """Return the place of an operation."""
        place = Place(self.stretch, name, self._operations_seen[name], self._after)
        self._operations_seen[name] += 1
        return place

    def returned(self, name: str) -> None:
        """Record that a call has returned; the next stretch begins after the call that ends an iteration."""
        if name == self.ends.name:
            self.calls += 1
            if (done := self.ends.iterations(self.calls)) > self.stretch:
                self.stretch = done
                self._after = ""
                self._calls_seen.clear()


@dataclass(frozen=True, eq=False)
class Event:
    """A call that an open frame made, with the values that went in and came out.

    Attributes:
        place: place of the event in the run.
        is_call: whether a submodule or method was called rather than a function of PyTorch.
        inputs: number of the value at each path of (args, kwargs).
        outputs: number of the value at each path of the returned value.
        written: numbers of the values that it wrote into tensors in place.
        arguments: (args, kwargs) if the call ends an iteration, otherwise None.
        returned: returned value of a call.
        index: position among all events.
    """

    place: Place
    index: int
    is_call: bool
    inputs: Mapping[Path, int]
    outputs: Mapping[Path, int]
    written: tuple[int, ...]
    arguments: Any = None
    returned: Any = None

    @property
    def made(self) -> set[int]:
        """The values that this event created."""
        return set(self.outputs.values()).union(self.written) - set(self.inputs.values())


@dataclass
class Tape:
    """The events of one run, in order.

    Attributes:
        ends: the calls that end an iteration.
        events: events in order.
        tensors: tensor of each value.
        stretches: number of finished iterations.
        calls: number of calls of the named submodule or method.
        names: names of everything that was called and made tensors, in order.
        hidden: whether something was hidden from autograd.
        uninitialized: whether an open frame allocated uninitialized memory, which is filled with NaN here.
    """

    ends: Ends
    events: list[Event] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    stretches: int = 0
    calls: int = 0
    names: list[str] = field(default_factory=list)
    hidden: bool = False
    uninitialized: bool = False

    def in_stretch(self, stretch: int) -> list[Event]:
        """Return the events of one stretch."""
        return [event for event in self.events if event.place.stretch == stretch]

    def makers(self) -> dict[int, Event]:
        """Return the event that made each value; inputs and parameters have no such event."""
        return {value: event for event in self.events for value in event.made}

    def behind(self, values: Iterable[int], until: Callable[[Event], bool] = lambda event: False) -> set[int]:
        """Return the values that the given values were made from, including themselves.

        Args:
            values: numbers of the values to begin with.
            until: returns whether an event's own inputs are left out.
        """
        needed = set(values)
        for event in reversed(self.events):
            if event.made & needed and not until(event):
                needed.update(event.inputs.values())
        return needed


def makes_tensors(operation: str, returned: Any) -> bool:
    """Return whether an operation returned a tensor or wrote into one."""
    parts = returned if isinstance(returned, (tuple, list)) else (returned,)
    return operation == "__setitem__" or any(isinstance(part, Tensor) for part in parts)


class Recorder(Handler):
    """Records a run on a tape.

    Args:
        ends: the calls that end an iteration.
    """

    def __init__(self, ends: Ends) -> None:
        self.tape = Tape(ends)
        self.places = Places(ends)
        self._numbers: dict[int, tuple[int, int]] = {}
        self._others: list[Tensor] = []  # kept, so that no later tensor has the same id

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call; the next stretch begins after the call that ends an iteration."""
        returned = self._written_down(self.places.of_call(name), function, args, kwargs, is_call=True)
        self.places.returned(name)
        self.tape.calls, self.tape.stretches = self.places.calls, self.places.stretch
        return returned

    def operation(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record an operation. One that keeps its values gives the same value another name."""
        if name in KEEPING_VALUES:
            returned = function(*args, **kwargs)
            self._numbers[id(returned)] = (self.value(args[0]), returned._version)
            self._others.append(returned)
            return returned
        return self._written_down(self.places.of_operation(name), function, args, kwargs, is_call=False)

    def inside(self, function: Callable[..., Any]) -> None:
        """Note a function that hides a part of an iteration from autograd."""
        if self.tape.stretches > 0:
            self.tape.hidden = self.tape.hidden or hides(function)

    def value(self, tensor: Tensor) -> int:
        """Return the number of a tensor's present value; a tensor that was changed in place gets a new number."""
        if tensor.is_inference():
            raise LoopscopeError(
                "the model runs in torch.inference_mode, which no derivative passes: use torch.no_grad there, and make "
                "inputs outside of it"
            )
        number, version = self._numbers.get(id(tensor), (-1, -1))
        if number < 0 or version != tensor._version:
            number = len(self.tape.tensors)
            self.tape.tensors.append(tensor)
            self._numbers[id(tensor)] = (number, tensor._version)
        return number

    def _written_down(
        self,
        place: Place,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        is_call: bool,
    ) -> Any:
        given = tensors_by_path((args, dict(kwargs)))
        inputs = {path: self.value(tensor) for path, tensor in given.items()}
        returned = function(*args, **kwargs)
        if place.name in UNINITIALIZED and returned.is_floating_point():
            self.tape.uninitialized = True
            returned.fill_(torch.nan)
        if is_call or makes_tensors(place.name, returned):
            self.tape.names.append(place.name)
        index = len(self.tape.names) - 1
        outputs = {path: self.value(tensor) for path, tensor in tensors_by_path(returned).items()}
        written = {self.value(tensor) for tensor in given.values()} - set(inputs.values()) - set(outputs.values())
        if outputs or written:
            kept = ((args, dict(kwargs)), returned) if is_call else (None, None)
            self.tape.events.append(Event(place, index, is_call, inputs, outputs, tuple(written), *kept))
        return returned
