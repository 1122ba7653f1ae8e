"""Data flow of a recorded run: the values that one iteration passes to the next, and what each part of a run needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopscope.adapters.paths import Path, join_words, leaves_by_path
from loopscope.adapters.tape import Event, Place, Tape
from loopscope.errors import LoopscopeError


class Spot(NamedTuple):
    """A tensor among the arguments or the returned values of an event."""

    place: Place
    path: Path

    def __str__(self) -> str:
        return join_words(str(self.place), self.path)


@dataclass(frozen=True)
class Component:
    """A tensor that one iteration passes to the next.

    Attributes:
        name: its name in the state.
        made: where each iteration from the second on makes it, as a spot of stretch 1.
        first_made: where the first iteration makes it.
        used: where the next iteration uses it, as a spot of stretch 1.
        first_used: where the first iteration uses it, or None if that iteration differs from the others.
        floating: whether it is part of the state; otherwise it is a counter or a flag.
    """

    name: str
    made: Spot
    first_made: Spot
    used: tuple[Spot, ...]
    first_used: tuple[Spot, ...] | None
    floating: bool

    def made_in(self, stretch: int) -> Spot:
        """Return where the iteration of one stretch makes it."""
        return self.first_made if stretch == 0 else _in_stretch(self.made, stretch)


def _in_stretch(spot: Spot, stretch: int) -> Spot:
    return Spot(spot.place._replace(stretch=stretch), spot.path)


class Flow:
    """Data flow of one recorded run.

    Args:
        tape: record of at least three iterations.
        output: result of the run.
        narrow: whether an iteration consists only of the call that ends it.
        with_outputs: whether the state includes other results of the last iteration that the readout takes.
    """

    def __init__(self, tape: Tape, output: Tensor, *, narrow: bool, with_outputs: bool = False) -> None:
        self.tape, self.narrow, self.with_outputs = tape, narrow, with_outputs
        self.iterations = tape.stretches
        self.makers = tape.makers()
        numbers = {id(tensor): number for number, tensor in enumerate(tape.tensors)}
        self.output = numbers.get(id(output), -1)
        self._at = {event.place: event for event in tape.events}

    # What an iteration is

    def iteration(self, stretch: int) -> list[Event]:
        """Return the events of the iteration that ends a stretch; they correspond to those of the other iterations.

        Raises:
            LoopscopeError: the iteration differs from the second one.
        """
        events, usual = self._events(stretch), self._events(1)
        if stretch == 0:
            events = events[-len(usual) :]
        if [_kind(event, stretch) for event in events] != [_kind(event, stretch) for event in usual]:
            raise LoopscopeError(
                f"iterations differ: {_difference(usual, events, stretch + 1)}; name a call that ends every iteration "
                "(ls.find_loops lists calls), or give every= and offset="
            )
        return events

    def _events(self, stretch: int) -> list[Event]:
        events = self.tape.in_stretch(stretch)
        return events[-1:] if self.narrow else events

    def check(self) -> None:
        """Check that all iterations from the second on are alike.

        Raises:
            LoopscopeError: two iterations differ; the message names a difference.
        """
        for stretch in range(2, self.iterations):
            self.iteration(stretch)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Everything that one iteration passes to the next and that matters there.

        Raises:
            LoopscopeError: nothing is passed on, or it is overwritten in place.
        """
        found = dict(self._carried)
        if not any(self.tape.tensors[value].is_floating_point() for value in found.values()):
            raise LoopscopeError(
                f"no call of {self.tape.ends.name} depends on an earlier one, so nothing is iterated: it may serve another purpose, "
                "be only a part of the iteration, or hand on its state in an attribute or in place: name a call that takes the state "
                "and returns it (ls.find_loops lists calls)"
            )
        if self.with_outputs:
            found.update({spot: self.value_made(spot) for spot in self.handed_to_readout})
        ordered = sorted(found.items(), key=lambda item: self.makers[item[1]].index)
        names = [self._name(spot, value) for spot, value in ordered]
        return tuple(
            self._component(spot, value, name if names.count(name) == 1 else str(spot))
            for (spot, value), name in zip(ordered, names, strict=True)
        )

    @cached_property
    def _carried(self) -> dict[Spot, int]:
        """Values that the second iteration makes and later ones need."""
        # A call that returns no tensor, and writes into none that it was given, is no event.
        values, found = {value for event in self._events(2)[-1:] for value in event.outputs.values()}, dict[Spot, int]()
        while values:
            carried = {value for value in self._reached(values, 2) if self._stretch(value) == 1}
            new = {self._made(value): value for value in carried}
            values = {self.value_made(_in_stretch(spot, 2)) for spot in new.keys() - found.keys()}
            found.update(new)
        return found

    def _component(self, made: Spot, value: int, name: str) -> Component:
        used = [Spot(event.place, path) for event in self._events(2) for path in _paths(event.inputs, value)]
        for spot in used:
            if any(
                _is_same_memory(self.tape.tensors[one], self.tape.tensors[value]) for one in self._at[spot.place].made
            ):
                raise LoopscopeError(
                    f"{spot.place} changes what the iteration before made ({made}) in place, so no state can be kept: return a new "
                    "tensor (z = z + x instead of z += x)"
                )
        if not used:  # made for the readout only
            return Component(name, made, self._first_made(made), (), None, True)
        before = {self.value_used(_in_stretch(spot, 1)) for spot in used}
        makers = {self._made(one) for one in before if one in self.makers}
        if len(before) != 1 or len(makers) != 1:
            raise LoopscopeError(f"the second iteration takes {made} from elsewhere than later ones do")
        return Component(
            name=name,
            made=made,
            first_made=makers.pop(),
            used=tuple(_in_stretch(spot, 1) for spot in used),
            first_used=self._first_used(used),
            floating=self.tape.tensors[value].is_floating_point(),
        )

    def _first_made(self, made: Spot) -> Spot:
        """Return the event of the first iteration that is as far from its end as the maker is in the others."""
        usual, first = ([event.place for event in self.tape.in_stretch(k)] for k in (1, 0))
        same = [place for place in usual if place.name == made.place.name]
        twins = [place for place in first if place.name == made.place.name]
        if len(twins) < len(same) - same.index(made.place):
            raise LoopscopeError(
                f"the first iteration does not make {made}, which later ones hand on; name a call that ends every iteration "
                "(ls.find_loops lists calls), or give every= and offset="
            )
        return Spot(twins[same.index(made.place) - len(same)], made.path)

    def _first_used(self, used: list[Spot]) -> tuple[Spot, ...] | None:
        try:
            first = self.iteration(0)
        except LoopscopeError:
            return None
        twins = {event.place: twin for event, twin in zip(self._events(2), first, strict=True)}
        spots = tuple(Spot(twins[spot.place].place, spot.path) for spot in used)
        values = {self.value_used(spot) for spot in spots}
        made_before = all(value >= 0 and self.makers.get(value) not in first for value in values)  # events by identity
        return spots if len(values) == 1 and made_before else None

    def _name(self, made: Spot, value: int) -> str:
        if self.narrow and made in self._carried:
            return self.tape.ends.argument(_paths(self._events(2)[-1].inputs, value)[0])
        return join_words(made.place.name, made.path)

    @property
    def state(self) -> tuple[Component, ...]:
        """The components that are numbers."""
        return tuple(part for part in self.components if part.floating)

    @property
    def first_is_like_the_others(self) -> bool:
        """Whether the first iteration can start from a given state, as the others can."""
        return all(part.first_used is not None for part in self.state)

    def is_closed(self) -> bool:
        """Whether the only changing arguments of the call that ends an iteration are its own earlier results."""
        own = {self.value_made(part.made) for part in self.components}
        one, two = self._events(1)[-1], self._events(2)[-1]
        changed = {
            value
            for path, value in two.inputs.items()
            if self.tape.tensors[value].is_floating_point()
            and not (path in one.inputs and equal(self.tape.tensors[value], self.tape.tensors[one.inputs[path]]))
        }
        return changed <= own

    def changing_arguments(self) -> list[str]:
        """Return the arguments of the call that ends an iteration, other than the state, that differ from call to call."""
        one, two = (self.tape.in_stretch(k)[-1] for k in (1, 2))
        before, after = (dict(leaves_by_path(event.arguments)) for event in (one, two))
        return [
            self.tape.ends.argument(path)
            for path, leaf in after.items()
            if not (isinstance(leaf, Tensor) and leaf.is_floating_point()) and not equal(leaf, before.get(path))
        ]

    # What each part of a run needs from the calls before the loop

    def looped(self, *, aligned: bool) -> list[Event]:
        """Return the events of the iteration that is the step: the first, or the second if the first differs."""
        return self.iteration(0) if aligned else self._events(1)

    def before(self, *, aligned: bool) -> list[Event]:
        """Return the calls before that iteration."""
        inside = {event.place for event in self.looped(aligned=aligned)}
        # A call that fills one of its arguments in place must be made.
        return [
            event
            for event in self.tape.in_stretch(0)
            if event.is_call and not event.written and event.place not in inside
        ]

    def for_step(self, *, aligned: bool) -> frozenset[Spot]:
        """Return the results of the calls before the loop that the step needs."""
        own = set() if aligned else {part.first_made for part in self.state}
        put = {spot for part in self.state for spot in part.first_used or ()} if aligned else set()
        values = {
            value
            for event in self.looped(aligned=aligned)
            for path, value in event.inputs.items()
            if Spot(event.place, path) not in put
        }
        inside = {value for event in self.looped(aligned=aligned) for value in event.made}
        values = {value for value in values - inside if not (value in self.makers and self._made(value) in own)}
        return self._calls_behind(values, self.before(aligned=aligned))

    def for_start(self, *, aligned: bool) -> frozenset[Spot]:
        """Return those that the first state needs; a first iteration that differs is run as a whole."""
        spots = [spot for part in self.state for spot in part.first_used or ()] if aligned else []
        return self._calls_behind({self.value_used(spot) for spot in spots}, self.before(aligned=aligned))

    def for_read(self, *, aligned: bool) -> frozenset[Spot]:
        """Return those that the readout needs."""
        return self._calls_behind(self._read(), self.before(aligned=aligned))

    @cached_property
    def handed_to_readout(self) -> list[Spot]:
        """What the readout takes from the last iteration besides the state, as spots of stretch 1."""
        own = self._carried.keys()
        last = [value for value in self._read() if self._stretch(value) == self.iterations - 1]
        spots = [_in_stretch(self._made(value), 1) for value in last if self._is_returned(value)]
        return [spot for spot in spots if spot not in own and self.made(spot).is_floating_point()]

    @property
    def read_from_earlier(self) -> list[Spot]:
        """What the readout takes from iterations before the last."""
        earlier = [value for value in self._read() if 0 < self._stretch(value) < self.iterations - 1]
        return [_in_stretch(self._made(value), 1) for value in earlier[:1] if self._is_returned(value)]

    @property
    def head(self) -> Spot | None:
        """What the last call before the output takes, if that has a value for each token of the output; else None."""
        needed = {self.output}
        for event in reversed(self.tape.in_stretch(self.iterations)):
            if not event.made & needed:
                continue
            if event.is_call:
                tokens = self.tape.tensors[self.output].shape[:2]
                paths = [path for path, value in event.inputs.items() if self.tape.tensors[value].shape[:2] == tokens]
                return Spot(event.place, paths[0]) if len(paths) == 1 else None
            needed.update(event.inputs.values())
        return None

    def _read(self) -> set[int]:
        needed = {self.output}
        for event in reversed(self.tape.in_stretch(self.iterations)):
            if event.made & needed:
                needed.update(event.inputs.values())
        return needed

    def _calls_behind(self, values: set[int], calls: list[Event]) -> frozenset[Spot]:
        places = {event.place for event in calls}
        early = {value for value in values if self._stretch(value) == 0}
        behind = self.tape.behind(early, until=lambda event: event.place in places)
        return frozenset(self._made(v) for v in behind if v in self.makers and self.makers[v].place in places)

    def course(self, *, aligned: bool) -> tuple[str, ...]:
        """Return the names of the calls from where the state is put in place to the end of the step."""
        looped = self.looped(aligned=aligned)
        put = looped[:1] if aligned else [self._at[part.first_made.place] for part in self.state]
        first = min(event.index if event.is_call else self._last_call_before(event.index) + 1 for event in put)
        return tuple(self.tape.names[first : looped[-1].index + 1])

    def _last_call_before(self, index: int) -> int:
        return max((event.index for event in self.tape.events if event.is_call and event.index < index), default=-1)

    # Values

    def first_values(self, state: tuple[Component, ...], *, aligned: bool) -> list[Tensor]:
        """Return the first state of this run: before its first iteration, or after it."""
        return [
            self.used(part.first_used[0]) if aligned and part.first_used else self.made(part.first_made)
            for part in state
        ]

    def value_made(self, spot: Spot) -> int:
        """Return the value that an event returns at a path."""
        return self._at[spot.place].outputs[spot.path]

    def value_used(self, spot: Spot) -> int:
        """Return the value that an event takes at a path, or -1 if it takes no tensor there."""
        event = self._at.get(spot.place)
        return -1 if event is None else event.inputs.get(spot.path, -1)

    def made(self, spot: Spot) -> Tensor:
        """Return the tensor that an event returned at a path."""
        return self.tape.tensors[self.value_made(spot)]

    def used(self, spot: Spot) -> Tensor:
        """Return the tensor that an event took at a path."""
        return self.tape.tensors[self.value_used(spot)]

    def _stretch(self, value: int) -> int:
        return self.makers[value].place.stretch if value in self.makers else -1

    def _made(self, value: int) -> Spot:
        event = self.makers[value]
        paths = _paths(event.outputs, value)
        if not paths:
            raise LoopscopeError(
                f"{event.place} overwrites in place a value that is passed on, so no state can be put there: return a new tensor "
                "(z = z + x instead of z += x)"
            )
        return Spot(event.place, paths[0])

    def _is_returned(self, value: int) -> bool:
        return value in self.makers[value].outputs.values()

    def _reached(self, values: set[int], stretch: int) -> set[int]:
        needed = set(values)
        for event in reversed(self._events(stretch)):
            if event.made & needed:
                needed.update(event.inputs.values())
        return needed


def _kind(event: Event, stretch: int) -> tuple[Any, ...]:
    """Return what iterations are compared by; calls before the loop shift the occurrences in the first one."""
    return (event.place.name,) if stretch == 0 else event.place[1:]


def _is_same_memory(one: Tensor, other: Tensor) -> bool:
    return one is other or (bool(one.numel()) and one.shape == other.shape and one.data_ptr() == other.data_ptr())


def _paths(values: Mapping[Path, int], value: int) -> list[Path]:
    return [path for path, one in values.items() if one == value]


def _difference(usual: list[Event], other: list[Event], iteration: int) -> str:
    names = [[event.place.name for event in events] for events in (usual, other)]
    for name in dict.fromkeys((*names[1], *names[0])):
        counts = [one.count(name) for one in names]
        if counts[0] != counts[1]:
            return f"{name} is called {counts[1]}x in iteration {iteration} and {counts[0]}x in iteration 2"
    return f"calls come in another order in iteration {iteration} than in iteration 2"


def equal(one: Any, other: Any) -> bool:
    """Return whether two leaves of arguments are the same."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))
    return one is other or (type(one) is type(other) and bool(one == other))
