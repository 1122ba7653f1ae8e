"""Reachability: whether the orbits arrive, and what happens along them."""

from __future__ import annotations

import math
from collections import Counter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.schema import to_plain
from loopscope.stability.orbits.classify import Orbits
from loopscope.stability.orbits.trace import Trajectory, quantiles
from loopscope.stability.results import AnswerResult, Curves, Numbers, ReachabilityResult, reached_by

QUANTILES = (0.1, 0.5, 0.9)
SHOWN_TOKENS = 8
"""Number of inputs for which the report shows when each token settled."""


def left_at(trajectory: Trajectory) -> Int[Tensor, "batch"]:
    """Return the iteration at which each orbit left a fixed point for good after reaching the tolerance, or 0.

    An orbit has left if it ends more than ten times the tolerance away.
    """
    inside = trajectory.residual <= trajectory.tolerance
    last_inside = (inside * torch.arange(1, len(inside) + 1, device=inside.device)[:, None]).amax(0)
    left = inside.any(0) & ~trajectory.arrived & (trajectory.residual[-1] > 10 * trajectory.tolerance)
    return torch.where(left, last_inside + 1, 0)


def reachability(trajectory: Trajectory, orbits: Orbits) -> ReachabilityResult:
    """Return whether each orbit arrived, and what it does instead."""
    needed = trajectory.iterations_to_tolerance.double()
    return ReachabilityResult(
        arrived=to_plain(trajectory.arrived),
        iterations_to_tolerance=to_plain(torch.where(needed > 0, needed, math.nan)),
        rate=to_plain(trajectory.rate),
        rate_error=to_plain(trajectory.rate_error),
        distance_left=to_plain(trajectory.radius),
        norm=to_plain(trajectory.norm[-1]),
        start_norm=to_plain(trajectory.start_norm),
        labels=[label.value for label in orbits.labels],
        reasons=list(orbits.reasons),
        period=to_plain(orbits.period),
        lyapunov=to_plain(orbits.lyapunov),
        lyapunov_error=to_plain(orbits.lyapunov_error),
        growth=to_plain(orbits.growth),
        left_at=to_plain(left_at(trajectory)),
        counts=dict(Counter(label.value for label in orbits.labels)),
        readout_broken_at=to_plain(readout_broken_at(trajectory)),
        answered=to_plain(trajectory.answered[-1]),
    )


def readout_broken_at(trajectory: Trajectory) -> Int[Tensor, "batch"]:
    """Return the iteration at which a number of the readout first turned NaN or infinite, or 0 if none did.

    A readout that is NaN at the first state is broken from the first iteration on. If the state diverges, the readout is broken
    from the iteration at which the state's norm overflows.
    """
    broken = trajectory.broken | ~trajectory.answered
    first = broken.int().argmax(0) + 1
    return torch.where(broken.any(0), first, torch.where(trajectory.diverged, trajectory.iterations, 0))


def answers(trajectory: Trajectory) -> AnswerResult:
    """Return when answers became final."""
    # A readout without an answer (NaN) counts as changing, because there is nothing to keep.
    at_last = trajectory.last_change == trajectory.iterations[trajectory.example]
    never = at_last | trajectory.diverged[trajectory.example]
    final = torch.where(never, math.nan, trajectory.last_change.clamp_min(1).double())
    final_at: Numbers = to_plain(final)
    return AnswerResult(
        final_at=final_at,
        half=reached_by(final_at, 0.5),
        nine_tenths=reached_by(final_at, 0.9),
        all=reached_by(final_at, 1.0),
    )


def curves(trajectory: Trajectory) -> Curves:
    """Return the quantities along the orbits, over all inputs."""

    def over_inputs(values: Float[Tensor, "iterations batch"]) -> list[Numbers]:
        result: list[Numbers] = to_plain(quantiles(values, QUANTILES))
        return result

    solved = trajectory.solved
    return Curves(
        residual=over_inputs(trajectory.residual),
        norm=over_inputs(trajectory.norm),
        read_residual=over_inputs(trajectory.read_residual),
        prediction_changes=to_plain(trajectory.prediction_changes.nanmean(1)),
        accuracy=None if solved is None else to_plain(solved.double().mean(1).masked_fill(~trajectory.read, math.nan)),
    )


def settled_tokens(trajectory: Trajectory) -> list[list[int]]:
    """Return the iteration at which each token settled, for the first inputs (0 for padding, -1 for never)."""
    tokens: list[list[int]] = to_plain(trajectory.token_settled[:SHOWN_TOKENS])
    return tokens
