"""Classification of orbits that do not arrive: cycle, drift, quasi-periodic, chaotic or diverging.

The cheapest evidence comes first. Norms and directions along the trajectory show divergence and drift. The last states show
cycles: the p-th iterate of an orbit with period p arrives. For all other orbits the largest Lyapunov exponent is measured by
tangent dynamics (Benettin et al., 1980). A tangent vector is carried along the orbit by products with the Jacobian and rescaled
at each step, and the mean of log growth is the exponent. An orbit is chaotic if the exponent is positive and the orbit stays
bounded. If its own steps grow as well, it is moving away, for example from a repelling point. Recurrence is found in a
low-dimensional random projection of the orbit, so that no orbit is kept in full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

from loopscope.contexts import check_time
from loopscope.errors import check_count_or_zero
from loopscope.jacobian import step_jacobian
from loopscope.loop import Loop, is_time_dependent, mask_of
from loopscope.stability.orbits.arrival import REMAINING_IN_TOLERANCES, line, ratio
from loopscope.stability.orbits.rounding import Floor, floor_of
from loopscope.stability.orbits.trace import HISTORY, Trajectory
from loopscope.stability.starts import random_direction
from loopscope.trees import Tree, flatten, real_numbers, scaled_norm, select, unflatten

MAX_PERIOD = (HISTORY - 1) // 2
"""The longest cycle that the last states show. Longer cycles are found by recurrence."""
STEADY = 0.1
"""The error of a cycle after one period is at most this fraction of the distance that the orbit covers in between."""
GEOMETRIC, SATURATING = 1.5, 0.8
"""Bounds on the ratio of the growth of log||z|| over the last half of an orbit to that over the quarter before. The ratio is 2
for geometric growth, 1 for growth as a power of time, and approaches 0 if the norm settles."""
TURN = 0.1
"""A direction has settled if it changes within the tolerance, or if at most this many radians are still to come."""
STEADY_GROWTH = 0.9
"""Share of the variance of log||z|| that a straight line in time must explain for the norm to count as growing."""
RECURRENT = 0.1
"""An orbit recurs if some lag brings it back within this fraction of its own spread, at all times."""
BLOCKS = 8
"""Number of blocks whose averages give the error of the exponent."""
PROJECTED = 16
"""Dimensions of the random projection in which recurrence is measured."""


class Orbit(StrEnum):
    """The long-run behaviour of an orbit."""

    FIXED_POINT = "fixed point"
    CYCLE = "cycle"
    DRIFT = "drift"
    QUASI_PERIODIC = "quasi-periodic"
    CHAOTIC = "chaotic"
    DIVERGING = "diverging"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Orbits:
    """The label of each example's orbit, with the evidence for it. NaN stands for what was not measured.

    Attributes:
        labels: label of each example.
        reasons: the evidence in words, per example.
        period: 1 for a fixed point, the period for a cycle, otherwise 0.
        cycle_residual: relative residual of the p-th iterate of a cycle with period p.
        lyapunov: largest Lyapunov exponent per iteration, for orbits that do not arrive, drift or cycle.
        lyapunov_error: half width of its 95% interval.
        growth: d log||z|| / dt per iteration over the last quarter of the trajectory.
        growth_error: half width of its 95% interval.
        direction_residual: change of direction per token at the end of the trajectory.
        direction_left: extrapolated change of direction still to come, in radians; infinite if it falls no faster than 1/t.
        recurrence: distance to which the orbit returns, relative to its spread (root mean square over time).
        recurrence_lag: number of iterations after which it returns; 0 if not measured.
        iterations: number of further evaluations of the step for each example.
        weight: number of orbits that the label represents. If only some of the open orbits are followed further, they also
            represent the others, whose weight is 0.
    """

    labels: tuple[Orbit, ...]
    reasons: tuple[str, ...]
    period: Int[Tensor, "batch"]
    cycle_residual: Float[Tensor, "batch"]
    lyapunov: Float[Tensor, "batch"]
    lyapunov_error: Float[Tensor, "batch"]
    growth: Float[Tensor, "batch"]
    growth_error: Float[Tensor, "batch"]
    direction_residual: Float[Tensor, "batch"]
    direction_left: Float[Tensor, "batch"]
    recurrence: Float[Tensor, "batch"]
    recurrence_lag: Int[Tensor, "batch"]
    iterations: Int[Tensor, "batch"]
    weight: Float[Tensor, "batch"]


def cycles(
    recent: Sequence[Float[Tensor, "batch n"]], tolerance: float, floor: Floor | None = None
) -> tuple[Int[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the period of each orbit's cycle (0 if none is found) and the residual of its p-th iterate.

    The p-th iterate must have arrived in the sense of a fixed point, with the contraction taken over one period, at all phases
    of the cycle. The remaining distance must be small relative to the distance that the orbit covers within a period.

    Args:
        recent: the last states, oldest first; 2p + 1 states show a cycle of period p.
        tolerance: on the relative residual.
        floor: the rounding floor; that of the states' type by default.
    """
    last = recent[-1]
    period = torch.zeros(len(last), dtype=torch.long, device=last.device)
    residual = torch.full((len(last),), math.nan, dtype=last.dtype, device=last.device)
    floor = floor or floor_of(last.dtype)
    widest = torch.zeros_like(residual)
    for lag in range(1, (len(recent) - 1) // 2 + 1):
        now = torch.stack([_apart(recent[-1 - k], recent[-1 - k - lag]) for k in range(lag)])
        if lag > 1:
            before = _apart(recent[-1 - lag], recent[-1 - 2 * lag])
            rate = now[0] / before.clamp_min(torch.finfo(last.dtype).tiny)
            off = now.amax(0)
            left = torch.where(rate < 1, off.clamp_min(floor.distance) / (1 - rate), torch.inf)
            near = (off <= floor.residual) | (
                (off <= tolerance) & (left <= REMAINING_IN_TOLERANCES * tolerance) & (left <= STEADY * widest)
            )
            found = near & (off <= STEADY * widest) & (period == 0)
            period = torch.where(found, lag, period)
            residual = torch.where(found, off, residual)
        widest = torch.maximum(widest, now.amin(0))
    return period, residual


def _apart(after: Tensor, before: Tensor) -> Tensor:
    lengths = [scaled_norm(part) for part in (after - before, after, before)]
    return ratio(lengths[0], torch.maximum(lengths[1], lengths[2]))


def recurrence(orbit: Float[Tensor, "time batch m"], tolerance: float) -> tuple[Tensor, Tensor]:
    """Return how closely each orbit returns to itself, and the lag after which it does.

    The distance between the orbit and the lagged orbit is averaged over all times (root mean square) and divided by that
    between unrelated times. A small value is an almost-period, which quasi-periodic orbits have and mixing orbits lack. Only
    lags after the orbit has moved away by half its spread count, so that slow motion is not taken for a return. The first lag
    within ``tolerance`` is reported, otherwise the best one. An orbit that never moves away has infinite recurrence.
    """
    spread = (2 * (orbit - orbit.mean(0)).square().sum(2).mean(0)).sqrt()
    best = torch.full_like(spread, torch.inf)
    best_lag = torch.zeros(len(spread), dtype=torch.long, device=spread.device)
    left = torch.zeros_like(best_lag, dtype=torch.bool)
    for lag in range(1, len(orbit) // 2 + 1):
        apart = ratio((orbit[lag:] - orbit[:-lag]).square().sum(2).mean(0).sqrt(), spread)
        better = left & (apart < best) & (best > tolerance)
        best, best_lag = torch.where(better, apart, best), torch.where(better, lag, best_lag)
        left = left | (apart >= 0.5)
    return best, best_lag


def exponent(log_growth: Float[Tensor, "time batch"], rounding: float) -> tuple[Tensor, Tensor]:
    """Return the mean of log growth per iteration and the half width of its 95% interval.

    The interval is the widest of three: that of averages over blocks (for chaos, whose growth is noisy), the range of the
    cumulated deviations over time (for regular motion, whose bounded oscillation does not accumulate), and rounding.

    Args:
        log_growth: per iteration.
        rounding: relative error of a length, by which its logarithm may be off.
    """
    values = log_growth.to(torch.float64)
    mean = values.mean(0)
    if len(values) < 2 * BLOCKS:
        return mean, torch.full_like(mean, torch.inf)
    averages = torch.stack([block.mean(0) for block in values.tensor_split(BLOCKS)])
    noise = float(stdtrit(BLOCKS - 1, 0.975)) * averages.std(0) / math.sqrt(BLOCKS)
    wobble = (values - mean).cumsum(0)
    wobble = (wobble.amax(0) - wobble.amin(0)) / len(values)
    return mean, torch.maximum(noise, wobble).clamp_min(rounding)


class _Tangent:
    """A tangent vector per example that is carried along the orbit and rescaled at each step."""

    def __init__(self, loop: Loop, recalled: Tree, state: Tree, vector: Tensor) -> None:
        self.vector = vector
        self.jacobian = step_jacobian(loop, state, recalled)
        self.log_growth: list[Tensor] = []

    def carry(self, state: Tree) -> None:
        pushed = self.jacobian.at(state).jvp(self.vector)
        length = scaled_norm(pushed).clamp_min(torch.finfo(pushed.dtype).tiny)
        self.log_growth.append(length.log())
        self.vector = pushed / length[:, None]


@dataclass(frozen=True)
class _Window:
    """The further iterations of some examples."""

    recent: list[Tensor]
    log_growth: Tensor | None
    step_growth: Tensor
    projected: Tensor


def _further(
    loop: Loop, recalled: Tree, state: Tree, recent: list[Tensor], real: Tensor, window: int, seed: int
) -> _Window:
    """Continue from ``state`` for ``window`` iterations, after carrying the tangent vector along the ``recent`` states."""
    generator = torch.Generator().manual_seed(seed)
    mask = mask_of(loop, recalled)
    n = recent[-1].shape[1]
    basis = torch.eye(n).to(real) if n <= PROJECTED else torch.randn(n, PROJECTED, generator=generator).to(real)
    projected = [(states * real) @ basis for states in recent]
    lengths = [_length(after, before, real) for before, after in pairwise(recent)]
    tangent = None
    if not is_time_dependent(loop, state, recalled):
        tangent = _Tangent(loop, recalled, state, random_direction(state, generator, mask))
    with torch.no_grad(), torch.autocast(real.device.type, enabled=False):
        if tangent is not None:
            for states in recent[:-1]:
                tangent.carry(unflatten(states, state))
        for _ in range(window):
            check_time()
            if tangent is not None:
                tangent.carry(state)
            state = loop.step(state, recalled)
            recent = [*recent, flatten(state)][-HISTORY:]
            lengths.append(_length(recent[-1], recent[-2], real))
            projected.append((recent[-1] * real) @ basis)
    growth = [] if tangent is None else tangent.log_growth
    burnt = min(MAX_PERIOD, len(growth) // 4)
    steps = torch.stack(lengths[burnt:]).clamp_min(torch.finfo(real.dtype).tiny).log().diff(dim=0)
    return _Window(recent, torch.stack(growth[burnt:]) if growth else None, steps, torch.stack(projected))


def _length(after: Tensor, before: Tensor, real: Tensor) -> Tensor:
    return scaled_norm((after - before) * real)


@dataclass(frozen=True)
class _Growth:
    """How the norm of each example grows along the trajectory; ``total`` and ``bend`` over its last three quarters."""

    rate: Tensor
    error: Tensor
    steady: Tensor
    total: Tensor
    bend: Tensor


def _growth(trajectory: Trajectory) -> _Growth:
    """Return d log||z||/dt at the end, and the growth of log||z|| over the last half relative to the quarter before it."""
    norms = torch.cat([trajectory.start_norm[None], trajectory.norm]).clamp_min(torch.finfo(trajectory.norm.dtype).tiny)
    logs = norms.to(torch.float64).log()
    count = len(logs) - 1
    tail = logs[-max(8, count // 4) :]
    rate, error = line(tail, torch.ones_like(tail, dtype=torch.bool))
    time = torch.arange(len(tail), dtype=tail.dtype, device=tail.device)[:, None]
    explained = rate.square() * time.var() / tail.var(0).clamp_min(torch.finfo(tail.dtype).tiny)
    late, early = logs[-1] - logs[count // 2], logs[count // 2] - logs[count // 4]
    bend = torch.where(early > 0, late / early, torch.where(late > 0, torch.inf, 0.0))
    # Growth is taken from the first quarter on, since the start may be zero. Growth by a constant per step is then at most
    # fourfold.
    return _Growth(rate, error, explained >= STEADY_GROWTH, logs[-1] - logs[count // 4], bend)


def _direction_left(direction: Float[Tensor, "iterations batch"]) -> Float[Tensor, "batch"]:
    """Return the sum of the changes still to come, which is d t / (a - 1) for changes d that fall as t^-a."""
    count = len(direction)
    if count < 8:
        return torch.full_like(direction[-1], torch.inf)
    early, late = direction[count // 4 : count // 2].mean(0), direction[count * 3 // 4 :].mean(0)
    # The middles of the two quarters lie at 3/8 and 7/8 of the time.
    power = (early / late.clamp_min(torch.finfo(late.dtype).tiny)).log() / math.log(7 / 3)
    return torch.where(power > 1, direction[-1] * count / (power - 1), torch.inf)


def classify(
    loop: Loop,
    recalled: Tree,
    trajectory: Trajectory,
    *,
    window: int,
    at_most: int | None = None,
    seed: int = 0,
) -> Orbits:
    """Label every example's orbit.

    Arrival, divergence, drift and cycles are read from the trajectory. All other examples are followed for ``window`` further
    iterations with tangent dynamics, at about four evaluations of the step each. The tangent vector is first carried along the
    states that the trajectory kept, so that ``window=0`` still gives a rough exponent. The exponent is unknown for loops with
    a clock in the state.

    Args:
        loop: any loop.
        recalled: the recalled input of the trajectory.
        trajectory: result of `trace`.
        window: largest number of further iterations per orbit.
        at_most: number of examples to follow further, evenly spread over the open ones; all by default. The others remain
            undecided.
        seed: seed of the tangent vector and the projection.

    Raises:
        LoopscopeError: the window is negative.
    """
    check_count_or_zero(window=window)
    evidence = _Evidence(trajectory)
    evidence.read_history(trajectory)
    rows = evidence.open()
    if len(rows):
        real = real_numbers(trajectory.state, mask_of(loop, recalled))
        evidence.find_cycles(rows, _rows_of(trajectory, rows), real[rows], trajectory)
        left = evidence.open()
        followed = left if at_most is None else spread(left, at_most)
        if len(followed):
            evidence.stand_for(followed, left)
            evidence.follow(loop, recalled, trajectory, followed, real[followed], window, seed)
    return evidence.orbits()


def spread(rows: Int[Tensor, "rows"], at_most: int) -> Int[Tensor, "some"]:
    """Return at most ``at_most`` of some rows, evenly spread over them, since inputs may be sorted (by difficulty, say)."""
    some = min(at_most, len(rows))
    return rows[torch.arange(some, device=rows.device) * len(rows) // max(some, 1)]


def _rows_of(trajectory: Trajectory, rows: Tensor) -> list[Tensor]:
    chosen = torch.isin(trajectory.unarrived, rows)
    return [states[chosen] for states in trajectory.recent]


class _Evidence:
    """The evidence for all orbits, and the labels found so far."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.growth = _growth(trajectory)
        self.direction = trajectory.direction_residual[-1]
        self.direction_left = _direction_left(trajectory.direction_residual)
        like = trajectory.norm[-1]
        self.labels: list[Orbit | None] = [None] * len(like)
        self.reasons = ["not followed further"] * len(like)
        self.cycle_residual, self.lyapunov, self.lyapunov_error, self.recurrence = (
            torch.full_like(like, math.nan) for _ in range(4)
        )
        self.leaves = torch.zeros_like(like, dtype=torch.bool)
        self.weight = torch.ones_like(like)
        self.period, self.lag, self.iterations = (torch.zeros_like(like, dtype=torch.long) for _ in range(3))
        self.device = like.device

    def label(self, row: int, label: Orbit, reason: str) -> None:
        self.labels[row], self.reasons[row] = label, reason

    def open(self) -> Tensor:
        rows = [row for row, label in enumerate(self.labels) if label is None]
        return torch.tensor(rows, dtype=torch.long, device=self.device)

    def stand_for(self, followed: Tensor, left: Tensor) -> None:
        self.weight[left] = 0
        self.weight[followed] = len(left) / len(followed)

    def read_history(self, trajectory: Trajectory) -> None:
        rate, error = self.growth.rate, self.growth.error
        grows = (rate - error > 0) & self.growth.steady
        geometric = grows & (self.growth.bend >= GEOMETRIC) & (self.growth.total >= math.log(10))
        settled = (self.direction <= trajectory.tolerance) | (self.direction_left <= TURN)
        drifts = grows & (self.growth.bend >= SATURATING) & settled
        levelled = trajectory.levelled
        for row in range(len(self.labels)):
            if trajectory.diverged[row]:
                self.label(row, Orbit.DIVERGING, f"not finite after {int(trajectory.iterations[row])} iterations")
            elif trajectory.arrived[row]:
                self.period[row] = 1
                self.label(row, Orbit.FIXED_POINT, f"arrived, residual {float(trajectory.residual[-1, row]):.2g}")
            elif geometric[row]:
                self.label(row, Orbit.DIVERGING, f"norm grows geometrically, by exp({float(rate[row]):.2g}) a step")
            elif drifts[row]:
                turn = float(self.direction[row])
                self.label(row, Orbit.DRIFT, f"direction settled ({turn:.2g} a step), norm grows")
            elif levelled[row]:
                reason = f"residual {float(trajectory.residual[-1, row]):.2g}, which the rounding of the step explains"
                self.label(row, Orbit.UNDECIDED, reason)

    def find_cycles(self, rows: Tensor, recent: list[Tensor], real: Tensor, trajectory: Trajectory) -> None:
        period, residual = cycles([states * real for states in recent], trajectory.tolerance, trajectory.floor)
        for row, length, off in zip(rows.tolist(), period.tolist(), residual.tolist(), strict=True):
            if length:
                self.period[row], self.cycle_residual[row] = length, off
                self.label(row, Orbit.CYCLE, f"iterate {length} arrived, residual {off:.2g}")

    def follow(
        self,
        loop: Loop,
        recalled: Tree,
        trajectory: Trajectory,
        rows: Tensor,
        real: Tensor,
        window: int,
        seed: int,
    ) -> None:
        start, recalled = select(trajectory.state, rows), select(recalled, rows)
        seen = _further(loop, recalled, start, _rows_of(trajectory, rows), real, window, seed)
        self.iterations[rows] = window
        if seen.log_growth is not None:
            rounding = max(floor_of(seen.log_growth.dtype).residual, trajectory.floor.residual)
            mean, error = exponent(seen.log_growth, rounding)
            self.lyapunov[rows], self.lyapunov_error[rows] = mean.to(self.lyapunov), error.to(self.lyapunov)
            mean, error = exponent(seen.step_growth, rounding)
            self.leaves[rows] = mean - error > 0
        returns, lag = recurrence(seen.projected, trajectory.tolerance)
        self.recurrence[rows], self.lag[rows] = returns.to(self.recurrence), lag
        self.find_cycles(rows, seen.recent, real, trajectory)
        for row in rows.tolist():
            if self.labels[row] is None:
                self.label(row, *self._from_window(row, trajectory.tolerance))

    def _from_window(self, row: int, tolerance: float) -> tuple[Orbit, str]:
        mean, error = float(self.lyapunov[row]), float(self.lyapunov_error[row])
        returns, lag = float(self.recurrence[row]), int(self.lag[row])
        said = f"exponent {mean:.3g} +- {error:.2g}"
        if mean - error > 0:
            if bool(self.leaves[row]):
                return Orbit.DIVERGING, f"{said}, and the orbit's own steps grow"
            return Orbit.CHAOTIC, said
        # A slow spiral also returns to its place, but no closer than its contraction over the lag allows.
        spiral = mean + error < 0 and returns > STEADY * -math.expm1(mean * lag)
        if returns <= tolerance and not spiral:
            self.period[row], self.cycle_residual[row] = lag, returns
            return Orbit.CYCLE, f"returns within {returns:.2g} of its spread every {lag} iterations"
        if mean + error < 0:
            return Orbit.UNDECIDED, f"{said}: contracting, still on its way"
        if math.isnan(mean):
            return Orbit.UNDECIDED, "no exponent: the loop depends on time"
        if returns <= RECURRENT:
            return Orbit.QUASI_PERIODIC, f"{said}, returns within {returns:.2g} of its spread after {lag} iterations"
        return Orbit.UNDECIDED, f"{said}, no recurrence found"

    def orbits(self) -> Orbits:
        return Orbits(
            labels=tuple(label or Orbit.UNDECIDED for label in self.labels),
            reasons=tuple(self.reasons),
            period=self.period,
            cycle_residual=self.cycle_residual,
            lyapunov=self.lyapunov,
            lyapunov_error=self.lyapunov_error,
            growth=self.growth.rate.to(self.lyapunov),
            growth_error=self.growth.error.to(self.lyapunov),
            direction_residual=self.direction,
            direction_left=self.direction_left,
            recurrence=self.recurrence,
            recurrence_lag=self.lag,
            iterations=self.iterations,
            weight=self.weight,
        )
