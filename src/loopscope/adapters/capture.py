"""Making a loop of any module: name the call that is one iteration, or that ends one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loopscope.adapters.calls import Watch, callee, find, modules_of
from loopscope.adapters.candidates import Survey, callables_of, listing
from loopscope.adapters.captured import CapturedLoop, DirectLoop, RerunLoop
from loopscope.adapters.flow import Flow, Spot
from loopscope.adapters.paths import tensors_by_path
from loopscope.adapters.plan import Plan, Run
from loopscope.adapters.running import logits, runner, takes_iterations
from loopscope.adapters.tape import Ends, Recorder, Tape
from loopscope.contexts import random_state_kept
from loopscope.errors import LoopscopeError, check_count
from loopscope.trees import Tree, batch_size, device_of, join, norms, select

ITERATIONS = 4
"""Iterations of the recorded run, where it can be told how many."""
FEWEST = 3
"""The first iteration may differ, and it takes two more to see that one hands over to the next."""
TOLERANCE = 1e-5
"""Relative difference, in float32, within which a state or the logits are the model's own."""


def capture(
    model: nn.Module,
    at: str,
    inputs: Tree,
    run: Callable[..., Any] | None = None,
    every: int = 1,
    offset: int = 0,
) -> CapturedLoop:
    """Return any module as a loop, by the name of the submodule or method that is one iteration, or that ends one."""
    check_count(every=every)
    batch = batch_size(inputs)
    call = runner(model, run)
    told = takes_iterations(run)

    def own(model: nn.Module, inputs: Tree, iterations: int) -> Tensor:
        return logits(call(model, inputs, iterations))

    found = find(model, at)
    survey = Survey(callables_of(model))
    with _fixed(inputs, seed=0):
        survey.run(lambda: own(model, inputs, ITERATIONS))
    if found is None:
        raise LoopscopeError(f"the model has no submodule or method {at!r}; {listing(survey.candidates())}")
    ends = Ends(found.name, every, offset)
    count = survey.counts.get(found.name)
    calls = 0 if count is None else count.calls
    if count is None or ends.iterations(calls) < FEWEST or (calls - offset) % every:
        raise LoopscopeError(
            f"{at} is called {calls} times, expected {f'{offset} + ' if offset else ''}{f'{every} x ' if every > 1 else ''}at least "
            f"{FEWEST}; {listing(survey.candidates())}"
        )
    watched = tuple(name for name in modules_of(model) if name not in count.inside and name != "forward" or name == found.name)
    if found.name not in watched:
        watched = (*watched, found.name)
    recording = _Recording(model, own, ends, watched)
    one = recording.of(inputs, seed=0)
    fewer = select(inputs, slice(0, batch - 1)) if batch > 1 else join([inputs, inputs])
    two = recording.of(fewer, seed=0)
    if one.tape.calls != two.tape.calls:
        raise LoopscopeError(
            f"{at} is called {one.tape.calls} times for {batch} inputs and {two.tape.calls} times for {batch_size(fewer)}: the number of "
            "iterations depends on the data; give run=lambda model, inputs: ... that runs a fixed number"
        )
    other = recording.of(inputs, seed=1)
    problems = []
    for narrow in (True, False):
        flow = Flow(one.tape, one.logits, narrow=narrow)
        try:
            if narrow and (every > 1 or not flow.is_closed()):
                continue
            flow.check()
            flow.components
        except LoopscopeError as error:
            problems.append(str(error))
            continue
        for aligned in (True, False):
            if aligned and not flow.first_is_like_the_others:
                continue
            plan = _plan(flow, two.tape, other.tape, ends, direct=narrow, aligned=aligned, told=told, batches=(batch, batch_size(fewer)))
            loop = (DirectLoop if narrow else RerunLoop)(model, plan, own)
            error = _reproduces(loop, flow, one.logits, inputs)
            if error is None:
                return loop
            problems.append(error)
    raise LoopscopeError(problems[-1])


@dataclass(frozen=True)
class _Recorded:
    tape: Tape
    logits: Tensor


@dataclass(frozen=True)
class _Recording:
    model: nn.Module
    run: Run
    ends: Ends
    watched: tuple[str, ...]

    def of(self, inputs: Tree, *, seed: int) -> _Recorded:
        recorder = Recorder(self.ends)
        callees = {name: callee(self.model, name) for name in self.watched}
        with _fixed(inputs, seed=seed), torch.no_grad(), Watch(callees, recorder, whole=False, look_inside=True).running():
            output = self.run(self.model, inputs, ITERATIONS)
        return _Recorded(recorder.tape, output)


@contextmanager
def _fixed(inputs: Tree, *, seed: int) -> Iterator[None]:
    with random_state_kept(device_of(inputs)):
        torch.manual_seed(seed)
        yield


def _grows(one: Tensor, two: Tensor, batches: tuple[int, int]) -> tuple[bool, ...]:
    return tuple(a != b and a * batches[1] == b * batches[0] for a, b in zip(one.shape, two.shape, strict=True))


def _plan(flow: Flow, two: Tape, other: Tape, ends: Ends, *, direct: bool, aligned: bool, told: bool, batches: tuple[int, int]) -> Plan:
    tape = flow.tape
    twins = {event.place: event for event in two.events}
    grows, echoes = {}, {}
    for event in tape.events:
        if event.is_call and event.place in twins:
            twin = twins[event.place]
            for path, value in event.outputs.items():
                if path in twin.outputs:
                    given = [at for at, one in event.inputs.items() if one == value]
                    if given:
                        echoes[Spot(event.place, path)] = given[0]
                    grows[Spot(event.place, path)] = _grows(tape.tensors[value], two.tensors[twin.outputs[path]], batches)
    before = flow.before(aligned=aligned)
    looped = flow.looped(aligned=aligned)
    steady = flow.looped(aligned=False)
    last = looped[-1]
    arguments = {}
    if direct:
        for path, value in last.inputs.items():
            arguments[path] = _grows(tape.tensors[value], two.tensors[twins[last.place].inputs[path]], batches)
    batch_at = []
    for part in flow.state:
        one, less = tape.tensors[flow.value_made(part.made)], two.tensors[twins[part.made.place].outputs[part.made.path]]
        where = [i for i, (a, b) in enumerate(zip(one.shape, less.shape, strict=True)) if (a, b) == batches]
        if len(where) != 1:
            raise LoopscopeError(
                f"{part.made} has shape {tuple(one.shape)} for {batches[0]} inputs and {tuple(less.shape)} for {batches[1]}: no dimension of it "
                "is the batch"
            )
        batch_at.append(where[0])
    first = [flow.used(part.first_used[0]) if aligned else flow.made(part.first_made) for part in flow.state]
    again = Flow(other, other.tensors[0], narrow=direct)
    second = [again.used(part.first_used[0]) if aligned else again.made(part.first_made) for part in flow.state]
    random = any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return Plan(
        ends=ends,
        direct=direct,
        aligned=aligned,
        state=flow.state,
        batch_at=tuple(batch_at),
        before=tuple(event.place for event in before),
        looped={a.place: b.place for a, b in zip(looped, steady, strict=True) if a.is_call},
        for_step=frozenset(flow.for_step(aligned=aligned)),
        for_start=frozenset(flow.for_start(aligned=aligned)),
        for_read=frozenset(flow.for_read(aligned=aligned)),
        grows=grows,
        echoes=echoes,
        argument_grows=arguments,
        watched=tuple(dict.fromkeys(event.place.name for event in tape.events if event.is_call)),
        hidden=tape.hidden,
        random=random,
        recorded=flow.iterations,
        told=told,
    )


def _reproduces(loop: CapturedLoop, flow: Flow, own: Tensor, inputs: Tree) -> str | None:
    """Return in which way a loop fails to be the recorded run, None where it is the same."""
    plan = loop.plan
    with torch.no_grad():
        recalled = loop.encode(inputs)
        for stretch in range(plan.stretch, flow.iterations):
            before = [
                flow.used(part.first_used[0]) if stretch == 0 else flow.made(part.made_in(stretch - 1)) for part in flow.state
            ]
            wanted = [flow.made(part.made_in(stretch)) for part in flow.state]
            if stretch == 0:
                state = loop.start(recalled)
            else:
                state = loop._state(before)
            after = loop._values(loop.step(state, recalled))
            for part, a, b in zip(flow.state, after, wanted, strict=True):
                gap = float((a - b).norm() / b.norm().clamp_min(1e-30))
                if not gap <= TOLERANCE:
                    return f"iteration {stretch + 1} is not the same map: {part.name} differs by {gap:.2g}"
        output = loop.read(loop._state(wanted), recalled)
        gap = float((output - own).norm() / own.norm().clamp_min(1e-30))
        if not gap <= TOLERANCE:
            return f"the readout differs by {gap:.2g}"
    return None
