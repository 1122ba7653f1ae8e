"""What the measured parts of an examination say on each axis: the deciding numbers, and the sentence beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from loopscope.stability.examination import middle
from loopscope.stability.orbits.classify import Orbit, Orbits
from loopscope.stability.orbits.trace import Trajectory
from loopscope.stability.verdict import (
    ANSWERS_STAND,
    Axis,
    Status,
    is_shared,
    judge,
    judge_geometry,
    judge_reachability,
)

SHARED = "most states stay where they are, whatever is recalled, at points that inputs share"
PATH_DEPENDENT = "what is recalled chooses the point, but so does the start: inputs have several points"


def left_at(trajectory: Trajectory) -> Int[Tensor, "batch"]:
    """Return the iteration at which an orbit that had come within the tolerance left again for good; 0 where none did.

    Leaving is to end more than ten times the tolerance away.
    """
    inside = trajectory.residual <= trajectory.tolerance
    last_inside = (inside * torch.arange(1, len(inside) + 1, device=inside.device)[:, None]).amax(0)
    left = inside.any(0) & ~trajectory.arrived & (trajectory.residual[-1] > 10 * trajectory.tolerance)
    return torch.where(left, last_inside + 1, 0)


def answers_stand(trajectory: Trajectory) -> Bool[Tensor, "batch"]:
    """Return whose answer did not change once in the last half of the longest orbit; a diverged state has none."""
    return (trajectory.prediction_changes[_half(trajectory) :] == 0).all(0) & ~trajectory.diverged


def _half(trajectory: Trajectory) -> int:
    return int(trajectory.iterations.max()) // 2


def radii_at_fixed_points(spectrum: Mapping[str, Any]) -> list[float | None]:
    """Return the spectral radius of each row of an examination's spectrum; None where its state was no fixed point."""
    pairs = zip(spectrum.get("radius", []), spectrum.get("at_fixed_point", []), strict=True)
    return [radius if fixed else None for radius, fixed in pairs]


def judge_axes(
    trajectory: Trajectory, orbits: Orbits, parts: Mapping[str, Mapping[str, Any]]
) -> tuple[Axis, Axis, Axis]:
    """Return what reachability, input-dependence and geometry say.

    Args:
        trajectory: the orbits.
        orbits: their labels.
        parts: the examination's mappings ``input-dependence``, ``spectrum`` and ``geometry``.
    """
    return _judge_reach(trajectory, orbits), _judge_dependence(parts["input-dependence"]), _judge_geometry(parts)


def _judge_reach(trajectory: Trajectory, orbits: Orbits) -> Axis:
    decided = torch.tensor([label is not Orbit.UNDECIDED for label in orbits.labels]).to(orbits.weight) * orbits.weight
    enough = 2 * float(decided.sum()) > len(decided)
    arrived = float((decided * trajectory.arrived).sum() / decided.sum()) if enough else None
    seen = [label.value for label, weight in zip(orbits.labels, orbits.weight.tolist(), strict=True) if weight]
    reason = f"of {len(orbits.labels)} orbits: {', '.join(f'{n} {label}' for label, n in Counter(seen).most_common())}"
    if len(seen) < len(orbits.labels):
        reason += f", {len(orbits.labels) - len(seen)} like those followed further"
    left = left_at(trajectory)
    if bool(left.any()):
        first = int(left[left > 0].min())
        reason += f"; {int((left > 0).sum())} came near a fixed point and left again, the first at {first}"
    stand = float(answers_stand(trajectory).double().mean())
    if not bool(trajectory.arrived.all()):
        reason += f"; {100 * stand:.0f}% of the answers never changed after iteration {_half(trajectory)}"
    return judge_reachability({"fraction arrived": arrived, ANSWERS_STAND: stand}, reason)


def _judge_dependence(found: Mapping[str, Any]) -> Axis:
    numbers = {"fraction moved": found.get("moved"), "fraction shared": found.get("shared")}
    swap = found.get("recall_swap", {})
    said = ", ".join(f"{count} {outcome}" for outcome, count in swap.items() if count) or "no swap could be done"
    reason = f"with another input recalled: {said}"
    if found.get("distinct_common"):
        reason += f"; {found['distinct_common'][-1]} distinct fixed points among {len(found['distinct_common'])} inputs"
    axis = judge("input-dependence", numbers, reason)
    if axis.status is not Status.FAILS:
        return axis
    return replace(axis, reason=f"{SHARED if is_shared(axis) else PATH_DEPENDENT}; {reason}")


def _judge_geometry(parts: Mapping[str, Mapping[str, Any]]) -> Axis:
    spectrum, found = parts["spectrum"], parts["geometry"]
    known_radii = [radius for radius in radii_at_fixed_points(spectrum) if radius is not None]
    radii = torch.tensor(known_radii, dtype=torch.float64)
    numbers = {
        "radius": float(radii.quantile(0.9)) if len(radii) else None,
        "relative Lipschitz constant": middle(found.get("relative_lipschitz")) if len(radii) else None,
        "gradient growth per iteration": middle(found.get("gradient_growth")),
    }
    known = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items() if value is not None)
    if not len(radii):
        known = f"no fixed point was reached at which it could be taken{f'; {known}' if known else ''}"
    return judge_geometry(numbers, known)
