"""The plan for running a captured model in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loopscope.adapters.flow import Component, Flow, Spot
from loopscope.adapters.paths import Path
from loopscope.adapters.recording import Recording, Recordings
from loopscope.adapters.tape import Ends, Event, Place
from loopscope.errors import LoopscopeError
from loopscope.trees import HALF


@dataclass(frozen=True)
class Plan:
    """How a model's own forward is run in parts.

    Attributes:
        ends: the calls that end an iteration.
        direct: whether that call is the whole iteration and can be made on its own.
        aligned: whether the first state is the one before the first iteration; otherwise it is the one after it.
        state: tensors that an iteration passes to the next.
        batch_at: batch dimension of each tensor of the state.
        before: calls before the iteration that serves as the step.
        looped: the calls of that iteration, each with its place as of stretch 1; the last one ends it.
        for_step: what the step needs of what the calls before returned.
        for_start: what the first state needs of it.
        for_read: what the readout needs of it.
        logits: shape of the logits of one example.
        head: what the call that makes the logits takes, where chosen tokens can be taken from it before the logits are made.
        grows: which dimensions grow with the batch, of everything that calls return.
        echoes: the arguments that calls return as they were given them.
        argument_grows: the same of the arguments of the call that ends the iteration.
        course: the names of what is called from where a state is put in place to the end of the step.
        half: whether the model keeps its state in half precision.
        watched: submodules and methods whose calls are intercepted.
        hidden: whether the step hides a part of itself from autograd.
        random: whether the first state is random.
        recorded: number of iterations of the recorded run.
        told: whether ``run`` takes a number of iterations.
    """

    ends: Ends
    direct: bool
    aligned: bool
    state: tuple[Component, ...]
    batch_at: tuple[int, ...]
    before: tuple[Place, ...]
    looped: dict[Place, Place]
    for_step: frozenset[Spot]
    for_start: frozenset[Spot]
    for_read: frozenset[Spot]
    logits: tuple[int, ...]
    head: Spot | None
    grows: Mapping[Spot, tuple[bool, ...]]
    echoes: Mapping[Spot, Path]
    argument_grows: Mapping[Path, tuple[bool, ...]]
    course: tuple[str, ...]
    half: bool
    watched: tuple[str, ...]
    hidden: bool
    random: bool
    recorded: int
    told: bool

    @property
    def stretch(self) -> int:
        """Stretch whose iteration is the step."""
        return 0 if self.aligned else 1

    @property
    def end(self) -> Place:
        """The call that ends that iteration."""
        return next(reversed(self.looped))

    @property
    def shortest(self) -> int:
        """Number of iterations of the shortest possible run."""
        return self.stretch + 1 if self.told else self.recorded

    def starts(self, part: Component) -> Spot:
        """Return where the first state's value of a component is found."""
        return part.first_used[0] if self.aligned and part.first_used else part.first_made

    def ends_at(self, part: Component) -> Spot:
        """Return where the step makes the next value of a component."""
        return part.made_in(self.stretch)


def make_plan(flow: Flow, recordings: Recordings, ends: Ends, *, aligned: bool, told: bool) -> Plan:
    """Return the plan for an iteration whose flow is known.

    Args:
        flow: data flow of the main recording.
        recordings: all recordings.
        ends: the calls that end an iteration.
        aligned: whether to begin at the state before the first iteration rather than the one after it.
        told: whether ``run`` takes a number of iterations.

    Raises:
        LoopscopeError: a tensor of the state has no batch dimension.
    """
    batches = _Batches(recordings.main, recordings.other_batch)
    looped, steady = flow.looped(aligned=aligned), flow.looped(aligned=False)
    calls = [event for event in recordings.main.tape.events if event.is_call]
    return Plan(
        ends=ends,
        direct=flow.narrow,
        aligned=aligned,
        state=flow.state,
        batch_at=tuple(batches.batch_at(part.made, flow.made(part.made)) for part in flow.state),
        before=tuple(event.place for event in flow.before(aligned=aligned)),
        looped={one.place: other.place for one, other in zip(looped, steady, strict=True) if one.is_call},
        for_step=flow.for_step(aligned=aligned),
        for_start=flow.for_start(aligned=aligned),
        for_read=flow.for_read(aligned=aligned),
        logits=tuple(recordings.main.logits.shape[1:]),
        head=flow.head,
        grows={spot: batches.grows(event.outputs, spot) for event in calls for spot in _spots(event, event.outputs)},
        echoes=_echoes(calls),
        argument_grows={
            spot.path: batches.argument_grows(looped[-1], spot) for spot in _spots(looped[-1], looped[-1].inputs)
        },
        course=flow.course(aligned=aligned),
        half=any(flow.made(part.made).dtype in HALF for part in flow.state),
        watched=tuple(dict.fromkeys(event.place.name for event in calls)),
        hidden=recordings.main.tape.hidden,
        random=_is_random(flow, recordings.other_seed, aligned=aligned),
        recorded=flow.iterations,
        told=told,
    )


class _Batches:
    """Dimensions that grow with the batch, from two runs of different batch sizes."""

    def __init__(self, one: Recording, other: Recording) -> None:
        self.one, self.other = one, other
        self._twins = {event.place: event for event in other.tape.events}

    def grows(self, values: Mapping[Path, int], spot: Spot) -> tuple[bool, ...]:
        twin = self._twins.get(spot.place)
        return self._dimensions(values[spot.path], None if twin is None else twin.outputs.get(spot.path))

    def argument_grows(self, event: Event, spot: Spot) -> tuple[bool, ...]:
        twin = self._twins.get(spot.place)
        return self._dimensions(event.inputs[spot.path], None if twin is None else twin.inputs.get(spot.path))

    def batch_at(self, spot: Spot, tensor: Tensor) -> int:
        """Return which dimension of a tensor is the batch."""
        twin = self._twins[spot.place]
        shape, other = tensor.shape, self.other.tape.tensors[twin.outputs[spot.path]].shape
        pairs = list(zip(shape, other, strict=True))
        if pairs.count((self.one.batch, self.other.batch)) != 1:
            raise LoopscopeError(
                f"{spot} has shape {tuple(shape)} for {self.one.batch} inputs and {tuple(other)} for {self.other.batch}, expected "
                "one dimension that is the batch: name a call whose state has one row for each example"
            )
        return pairs.index((self.one.batch, self.other.batch))

    def _dimensions(self, value: int, twin: int | None) -> tuple[bool, ...]:
        tensor = self.one.tape.tensors[value]
        if twin is None:
            return (False,) * tensor.ndim
        other = self.other.tape.tensors[twin]
        pairs = zip(tensor.shape, other.shape, strict=True)
        return tuple(a != b and a * self.other.batch == b * self.one.batch for a, b in pairs)


def _spots(event: Event, values: Mapping[Path, int]) -> list[Spot]:
    return [Spot(event.place, path) for path in values]


def _echoes(calls: list[Event]) -> dict[Spot, Path]:
    found = {}
    for event in calls:
        given = {value: path for path, value in event.inputs.items()}
        found.update({Spot(event.place, path): given[value] for path, value in event.outputs.items() if value in given})
    return found


def _is_random(flow: Flow, other: Recording, *, aligned: bool) -> bool:
    again = Flow(other.tape, other.logits, narrow=flow.narrow)
    pairs = zip(*(one.first_values(flow.state, aligned=aligned) for one in (flow, again)), strict=True)
    return any(not torch.equal(one, two) for one, two in pairs)
