"""Making a loop of any module: name the call that is one iteration, or that ends one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from loopscope.adapters.calls import find, modules_of
from loopscope.adapters.candidates import Survey, listing, survey
from loopscope.adapters.captured import CapturedLoop, DirectLoop, RerunLoop
from loopscope.adapters.flow import Flow
from loopscope.adapters.plan import make_plan
from loopscope.adapters.proof import relative_gap, tolerance_for
from loopscope.adapters.recording import Recording, Recordings, record_all, seeded
from loopscope.adapters.running import Run, runner, takes_iterations
from loopscope.adapters.tape import Ends
from loopscope.errors import LoopscopeError, check_count
from loopscope.trees import Tree

FEWEST = 3
"""The first iteration may differ, and it takes two more to see that one hands over to the next."""


def capture(
    model: nn.Module,
    at: str,
    inputs: Tree,
    run: Callable[..., Any] | None = None,
    every: int = 1,
    offset: int = 0,
) -> CapturedLoop:
    """Return any module as a loop, by the name of the call that is one iteration or that ends one.

    The model's own forward is run and recorded; what one iteration hands to the next is the state. The loop is then
    proven to be the model, or refused. The model itself stays as it is.

    Args:
        model: the module, in eval mode.
        at: the submodule ("layers.2") or method ("core_block_forward") whose call is one iteration or the last part of
            one. `loopscope.find_loops` lists what is called repeatedly.
        inputs: a few examples, batch first: a mapping of keywords, a tuple of arguments, or one tensor.
        run: ``run(model, inputs)`` or ``run(model, inputs, iterations)`` that returns the logits, where that is not
            ``model(inputs)``. With a number of iterations the proof covers 1, 2, 3 and 5 of them.
        every: calls of ``at`` per iteration.
        offset: calls of ``at`` before the first iteration.

    Raises:
        LoopscopeError: there is no such call, what it repeats is no loop, or the loop is not proven to be the model's.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Looped(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.core, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        ...
        ...     def forward(self, x):
        ...         e = self.embed(x)
        ...         h = torch.zeros_like(e)
        ...         for _ in range(4):
        ...             h = torch.tanh(self.core(h + e))
        ...         return self.head(h)
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> model, inputs = Looped().eval(), torch.randn(5, 3)
        >>> loop = capture(model, "core", inputs)
        >>> recalled = loop.encode(inputs)
        >>> state = loop.start(recalled)
        >>> for _ in range(4 - loop.iterations_before):
        ...     state = loop.step(state, recalled)
        >>> torch.equal(loop.read(state, recalled), model(inputs))
        True
    """
    check_count(every=every)
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise LoopscopeError(f"offset is {offset!r}, expected a whole number, 0 or more")
    if not isinstance(model, nn.Module):
        raise LoopscopeError(f"the model is of type {type(model).__name__}, expected a torch.nn.Module")
    if model.training:
        raise LoopscopeError(
            "the model is in training mode, where dropout makes every iteration random: call model.eval()"
        )
    own = runner(model, run)
    counted = survey(model, own, inputs)
    ends = _ends(model, at, every, offset, counted)
    opened = counted.counts[ends.name].opened | {"forward"}
    watched = tuple(name for name in (*modules_of(model), ends.name) if name not in opened or name == ends.name)
    recordings = record_all(model, own, inputs, ends, tuple(dict.fromkeys(watched)))
    _check_calls(at, recordings)
    reasons: list[str] = []
    for loop, flow in _attempts(model, own, recordings, ends, told=takes_iterations(run), reasons=reasons):
        reason = _difference(loop, flow, recordings.main, inputs)
        if reason is None:
            loop.prove(inputs)
            return loop
        reasons.append(reason)
    raise LoopscopeError(f"{at}: {reasons[-1]}")


def _ends(model: nn.Module, at: str, every: int, offset: int, counted: Survey) -> Ends:
    found = find(model, at)
    if found is None:
        raise LoopscopeError(f"the model has no submodule or method {at!r}; {listing(counted.candidates())}")
    ends = Ends(found.name, every, offset)
    calls = counted.counts[found.name].calls if found.name in counted.counts else 0
    if ends.iterations(calls) < FEWEST or (calls - offset) % every:
        wanted = f"{every} for each of at least {FEWEST} iterations" if every > 1 else f"at least {FEWEST}"
        raise LoopscopeError(
            f"{at} is called {calls} times, expected {wanted}{f' after the first {offset}' if offset else ''}; "
            f"{listing(counted.candidates())}"
        )
    return ends


def _check_calls(at: str, recordings: Recordings) -> None:
    one, other = recordings.main, recordings.other_batch
    if one.tape.calls != other.tape.calls:
        raise LoopscopeError(
            f"{at} is called {one.tape.calls} times for {one.batch} inputs and {other.tape.calls} times for {other.batch}: the number "
            "of iterations depends on the data; give run=lambda model, inputs: ... that runs a fixed number"
        )


def _attempts(
    model: nn.Module, run: Run, recordings: Recordings, ends: Ends, *, told: bool, reasons: list[str]
) -> Iterator[tuple[CapturedLoop, Flow]]:
    """Yield the loops that the call may be, the cheapest first; what keeps one from being made goes to ``reasons``."""
    for narrow in (True, False) if ends.every == 1 else (False,):
        flow = Flow(recordings.main.tape, recordings.main.logits, narrow=narrow)
        try:
            flow.check()
            if narrow and not flow.is_closed():
                continue
            for aligned in (True, False) if flow.first_is_like_the_others else (False,):
                plan = make_plan(flow, recordings, ends, aligned=aligned, told=told)
                yield (DirectLoop if narrow else RerunLoop)(model, plan, run), flow
        except LoopscopeError as error:
            reasons.append(str(error))


def _difference(loop: CapturedLoop, flow: Flow, recording: Recording, inputs: Tree) -> str | None:
    """Return where a loop goes another way than the recorded run, None where it is the same throughout."""
    plan, name = loop.plan, loop.plan.ends.name
    states = [flow.first_values(flow.state, aligned=plan.aligned)]
    if any(not value.isfinite().all() for value in states[0]):
        return (
            f"the first state holds {'uninitialized memory (torch.empty)' if plan.aligned else 'NaN'}: give run=lambda model, inputs: ... "
            "that sets it first"
        )
    states += [[flow.made(part.made_in(k)) for part in flow.state] for k in range(plan.stretch, flow.iterations)]
    with torch.no_grad(), seeded(inputs, 0):
        recalled = loop.encode(inputs)
        torch.manual_seed(0)
        began = loop.start(recalled)
        for number, (before, after) in enumerate(pairwise(states), start=1 + plan.stretch):
            state = began if number == 1 + plan.stretch else loop.state_of(before)
            found = loop.values_of(loop.step(state, recalled), recalled)
            differences = [relative_gap(one, other) for one, other in zip(found, after, strict=True)]
            if not max(differences) <= tolerance_for(after):
                again = loop.values_of(loop.step(state, recalled), recalled)
                if any(relative_gap(one, other) > 0 for one, other in zip(found, again, strict=True)):
                    return "an iteration draws random numbers: set its noise to 0 (a random first state is fine)"
                return (
                    f"iteration {number} is not the map that iteration {1 + plan.stretch} is: what {name} makes differs by "
                    f"{max(differences):.1e}{_changing(flow)}; name the call that ends the iteration, or give every= and offset="
                )
        difference = relative_gap(loop.read(loop.state_of(states[-1]), recalled), recording.logits)
    if difference <= tolerance_for([recording.logits]):
        return None
    beside = ", ".join(str(spot) for spot in flow.handed_to_readout)
    taken = f"takes {beside} from the last iteration beside the state" if beside else "takes more than the last state"
    return (
        f"the readout {taken}, so that the logits differ by {difference:.1e}; name the last call that makes a part of the state, "
        f"{flow.state[-1].made.place.name}, or give run= that returns logits of the last state"
    )


def _changing(flow: Flow) -> str:
    """Name the arguments that differ from call to call and are no part of the state."""
    names = flow.changing_arguments()
    return f", and it also takes {', '.join(names)}, which changes from call to call" if names else ""
