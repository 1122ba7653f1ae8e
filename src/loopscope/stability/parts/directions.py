"""The axes for the directions of states, which may settle on drifting orbits although the norm grows."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from loopscope.errors import LoopscopeError
from loopscope.stability.axes import judge_axes
from loopscope.stability.orbits.answers import Answers
from loopscope.stability.orbits.arrival import follow
from loopscope.stability.orbits.classify import Orbit, Orbits, classify
from loopscope.stability.orbits.normalized import normalized
from loopscope.stability.orbits.trace import trace
from loopscope.stability.parts.measure import measure
from loopscope.stability.parts.noise_floor import measure_floor
from loopscope.stability.parts.progress import Progress, one_line
from loopscope.stability.parts.sample import ALWAYS, Sample
from loopscope.stability.starts import first_state
from loopscope.stability.verdict import Axis
from loopscope.trees import select

Axes = tuple[Axis, Axis, Axis]


def judge_directions(sample: Sample, orbits: Orbits, answers: Answers | None, progress: Progress) -> Axes | None:
    """Return the axes of states normalized per token, or None unless more than half of the orbits drift.

    Args:
        sample: the inputs and their orbits.
        orbits: their labels.
        answers: see ``examine``.
        progress: progress of the examination. It keeps what could not be measured here.
    """
    drifting = torch.tensor([label is Orbit.DRIFT for label in orbits.labels])
    if 2 * int(drifting.sum()) <= len(drifting) or progress.skip_if_late("directions"):
        return None
    rows = torch.nonzero(drifting).squeeze(1)[: sample.budget.swapped]
    inner = progress.nested()
    try:
        axes = _normalized_axes(sample, rows, answers, inner)
    except (LoopscopeError, RuntimeError) as error:
        progress.skip(["directions"], one_line(error))
        return None
    progress.unknown |= {f"directions: {name}": reason for name, reason in inner.unknown.items()}
    return axes


def _normalized_axes(
    sample: Sample, rows: Int[Tensor, "drifting"], answers: Answers | None, progress: Progress
) -> Axes:
    loop, config = sample.loop, sample.config
    inputs = select(sample.inputs, rows)
    # Norms are taken early, because after a drift of t iterations a direction contracts by only about 1 - 1/t per iteration.
    early = min(sample.iterations, sample.trained or ALWAYS)
    with torch.no_grad():
        recalled = loop.encode(inputs)
        start = first_state(loop, recalled, config.seed)
        ends = follow(
            loop, recalled, start, iterations=early, tolerance=config.tolerance, stop=progress.late, floor=sample.floor
        )
        held, problem = normalized(loop, inputs, ends.state)
        recalled = held.encode(problem)
    measured = measure_floor(
        held, recalled, ends.state, iterations=sample.iterations, is_late=progress.late, seed=config.seed
    )
    trajectory = trace(
        held,
        recalled,
        iterations=sample.iterations,
        start=ends.state,
        tolerance=config.tolerance,
        stop=progress.late,
        answers=answers,
        floor=measured.floor,
    )
    progress.note_cut(trajectory)
    orbits = classify(held, recalled, trajectory, window=0, at_most=0, seed=config.seed)
    inner = Sample(held, problem, recalled, ends.state, trajectory, config, sample.trained, measured)
    return judge_axes(trajectory, orbits, measure(inner, progress))
