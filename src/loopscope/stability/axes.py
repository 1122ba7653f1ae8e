"""The three axes, judged from the measurements: the numbers that decide, and one sentence for each axis."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from loopscope.stability.orbits.classify import Orbit, Orbits
from loopscope.stability.orbits.trace import Trajectory
from loopscope.stability.parts.measure import Measurements
from loopscope.stability.parts.reachability import left_at, readout_broken_at
from loopscope.stability.results import GeometryResult, InputDependenceResult, SpectrumResult, known, middle
from loopscope.stability.verdict import (
    ANSWERS_STAND,
    LIPSCHITZ,
    Axis,
    Status,
    is_shared,
    judge,
    judge_geometry,
    judge_reachability,
)

SHARED_POINT = "most inputs share their fixed point, from their own starts and from a common one"
SEVERAL_POINTS = "each input has several fixed points, and the start decides which of them is reached"


def answers_stand(trajectory: Trajectory) -> Bool[Tensor, "answers"]:
    """Return which answers never changed in the last half of the longest orbit. NaN and diverged states have no answer."""
    at_last = trajectory.last_change == trajectory.iterations[trajectory.example]
    lost = trajectory.diverged[trajectory.example]
    return (trajectory.last_change <= _half(trajectory)) & ~at_last & ~lost


def _half(trajectory: Trajectory) -> int:
    return int(trajectory.iterations.max()) // 2


def judge_axes(trajectory: Trajectory, orbits: Orbits, measured: Measurements) -> tuple[Axis, Axis, Axis]:
    """Judge reachability, input-dependence and geometry.

    Args:
        trajectory: the orbits.
        orbits: their labels.
        measured: what was measured beyond the orbits.
    """
    return (
        _judge_reachability(trajectory, orbits),
        _judge_input_dependence(measured.input_dependence),
        _judge_geometry(measured.spectrum, measured.geometry),
    )


def _judge_reachability(trajectory: Trajectory, orbits: Orbits) -> Axis:
    decided = torch.tensor([label is not Orbit.UNDECIDED for label in orbits.labels]).to(orbits.weight) * orbits.weight
    enough = 2 * float(decided.sum()) > len(decided)
    answered = trajectory.answered[-1]
    arrived = float((decided * (trajectory.arrived & answered)).sum() / decided.sum()) if enough else None
    seen = [label.value for label, weight in zip(orbits.labels, orbits.weight.tolist(), strict=True) if weight]
    reason = f"of {len(orbits.labels)} orbits: {', '.join(f'{n} {label}' for label, n in Counter(seen).most_common())}"
    if len(seen) < len(orbits.labels):
        reason += f", {len(orbits.labels) - len(seen)} like those followed further"
    left = left_at(trajectory)
    if bool(left.any()):
        first = int(left[left > 0].min())
        reason += f"; {int((left > 0).sum())} came near a fixed point and left again, the first at iteration {first}"
    broken = readout_broken_at(trajectory)
    if bool((broken > 0).any()):
        since = int(broken[broken > 0].min())
        reason += f"; the readout of {int((broken > 0).sum())} turns NaN or infinite, the first at iteration {since}"
    stand = float(answers_stand(trajectory).double().mean())
    if not bool(trajectory.arrived.all()):
        answers = "tokens" if trajectory.answers_per == "token" else "answers"
        reason += f"; {100 * stand:.0f}% of the {answers} never changed after iteration {_half(trajectory)}"
    return judge_reachability({"fraction arrived": arrived, ANSWERS_STAND: stand}, reason)


def _judge_input_dependence(found: InputDependenceResult) -> Axis:
    swaps, distinct = found.swaps, found.distinct
    numbers = {
        "fraction moved": None if swaps is None else swaps.moved,
        "fraction shared": None if swaps is None else swaps.shared,
    }
    outcomes = {} if swaps is None else swaps.recall
    said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count) or "no swap was possible"
    reason = f"with another input recalled: {said}"
    if distinct is not None and distinct.common:
        reason += f"; {distinct.common[-1]} distinct fixed points among {len(distinct.common)} inputs"
    axis = judge("input-dependence", numbers, reason)
    if axis.status is not Status.FAILS:
        return axis
    return replace(axis, reason=f"{SHARED_POINT if is_shared(axis) else SEVERAL_POINTS}; {reason}")


def _judge_geometry(spectrum: SpectrumResult | None, found: GeometryResult) -> Axis:
    radii = torch.tensor([] if spectrum is None else known(spectrum.radius_at_fixed_point), dtype=torch.float64)
    lipschitz = found.lipschitz.relative if found.lipschitz and len(radii) else None
    numbers = {
        "radius": float(radii.quantile(0.9)) if len(radii) else None,
        LIPSCHITZ: middle(lipschitz),
        "gradient growth per iteration": middle(found.gradients.growth if found.gradients else None),
    }
    if found.input_is_discrete:
        del numbers[LIPSCHITZ]
    said = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items() if value is not None)
    if not len(radii):
        said = f"no fixed point was reached at which it could be measured{f'; {said}' if said else ''}"
    if found.input_is_discrete:
        said += f"; {LIPSCHITZ} not defined, because the loop recalls discrete inputs"
    doubt = None if spectrum is None else _doubt(spectrum)
    return judge_geometry(numbers, said if doubt is None else f"{doubt}; {said}", doubt=doubt)


def _doubt(spectrum: SpectrumResult) -> str | None:
    """Return the evidence against the Jacobians, or None."""
    rows, slower = len(spectrum.rows), [place for place, wrong in enumerate(spectrum.contradicted) if wrong]
    if slower:
        rate, radius = (middle([values[place] for place in slower]) for values in (spectrum.rate, spectrum.radius))
        return (
            f"{len(slower)} of {rows} orbits contract more slowly than the Jacobian allows ({rate:.3g} per iteration, "
            f"spectral radius {radius:.3g})"
        )
    # A kink in the step can mislead a finite difference at some states, but not at most of them.
    if 2 * sum(spectrum.hidden) > rows:
        return f"products with the Jacobian disagree with finite differences of the step at {sum(spectrum.hidden)} of {rows} states"
    return None
