"""Comparison of a captured loop with the run that it was captured from, state by state."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from loopscope.adapters.captured import CapturedLoop
from loopscope.adapters.flow import Flow
from loopscope.adapters.proof import relative_gap, tolerance_for
from loopscope.adapters.recording import Recording, seeded
from loopscope.errors import LoopscopeError
from loopscope.trees import Tree

SEED = 1000
"""Seed of the comparison; it differs from the seed of the recorded run, so that a random step is noticed."""


def check_reproduces(loop: CapturedLoop, flow: Flow, recording: Recording, inputs: Tree) -> None:
    """Refuse a loop whose states or logits differ from those of the recorded run.

    Args:
        loop: the loop.
        flow: data flow of the recorded run.
        recording: the recorded run.
        inputs: inputs of the recorded run.

    Raises:
        LoopscopeError: an iteration or the readout gives a different result; the message says which.
    """
    plan = loop.plan
    states = [flow.first_values(flow.state, aligned=plan.aligned)]
    states += [[flow.made(part.made_in(k)) for part in flow.state] for k in range(plan.stretch, flow.iterations)]
    _check_numbers(states[0], recording)
    _check_forms(flow, states[1:])
    with torch.no_grad():
        recalled = loop.encode(inputs)
        with seeded(inputs, 0):
            began = loop.start(recalled)
        # The last iteration first: otherwise something that a step keeps for the next one would go unnoticed.
        pairs = list(enumerate(pairwise(states), start=1 + plan.stretch))
        for number, (before, after) in reversed(pairs):
            state = began if number == 1 + plan.stretch else loop.state_of(before)
            _check_iteration(loop, flow, state, after, recalled, number)
        logits = loop.read(loop.state_of(states[-1]), recalled)
    difference = relative_gap(logits, recording.logits)
    if not difference <= tolerance_for([recording.logits]):
        raise LoopscopeError(_about_the_readout(flow, difference))


def _check_numbers(first: list[Tensor], recording: Recording) -> None:
    if all(bool(value.isfinite().all()) for value in first):
        return
    if recording.tape.uninitialized:
        raise LoopscopeError(
            "the first state is uninitialized memory (torch.empty): give run=lambda model, inputs: ... that sets it first"
        )
    raise LoopscopeError("the first state holds NaN or infinite numbers: give inputs, or weights, that are finite")


def _check_forms(flow: Flow, states: list[list[Tensor]]) -> None:
    for part, values in zip(flow.state, zip(*states, strict=True), strict=True):
        forms = [(tuple(value.shape), value.dtype) for value in values]
        if len(set(forms)) > 1:
            shapes = ", ".join(str(shape) for shape, _ in forms[:3])
            raise LoopscopeError(
                f"{part.made} changes its form from iteration to iteration: {shapes}, ...; a state has the same shape and precision "
                "throughout: switch caches off, or name a call whose output does not grow"
            )


def _check_iteration(
    loop: CapturedLoop, flow: Flow, state: Tree, wanted: list[Tensor], recalled: Tree, number: int
) -> None:
    found = []
    for seed in (SEED, SEED + 1):
        with seeded(recalled, seed):
            found.append(loop.values_of(loop.step(state, recalled), recalled))
    difference = max(relative_gap(one, other) for one, other in zip(found[0], wanted, strict=True))
    if difference <= tolerance_for(wanted):
        return
    if any(relative_gap(one, other) > 0 for one, other in zip(*found, strict=True)):
        raise LoopscopeError(
            "two runs of one iteration from the same state differ: it draws random numbers (set its noise to 0; a random "
            "first state is fine), or it keeps something between calls"
        )
    names = flow.changing_arguments()
    taken = f"; it also takes {', '.join(names)}, which changes from call to call" if names else ""
    raise LoopscopeError(
        f"iteration {number} is not the map that iteration {1 + loop.plan.stretch} is: from the same state it makes something else "
        f"(relative difference {difference:.1e}){taken}. A loop that depends on time, or on more than the last state, has no single "
        "map: write four functions, with a step that takes iteration; else name the call that ends an iteration, or give every= and "
        "offset="
    )


def _about_the_readout(flow: Flow, difference: float) -> str:
    beside, earlier = (", ".join(map(str, spots)) for spots in (flow.handed_to_readout, flow.read_from_earlier))
    if earlier:
        return (
            f"the readout takes what earlier iterations made ({earlier}), not the last state alone, so that the logits differ by "
            f"{difference:.1e}; give run= that returns the logits of the last state"
        )
    if beside:
        return (
            f"the readout takes {beside}, which the last iteration makes beside the state, so that the logits differ by "
            f"{difference:.1e}; name the call within that makes the state (ls.find_loops lists calls)"
        )
    return (
        f"the readout is not of the last state alone: the logits differ by {difference:.1e}; name another call, or give run= that "
        "returns the logits of the last state"
    )
