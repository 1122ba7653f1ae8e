"""Orbits, and whether they arrive at a fixed point. All other quantities of the framework rest on this pass.

An orbit is followed once. Each step gives the relative residual r = ||f(z) - z|| / max(||z||, ||f(z)||, tiny) per
example, where tiny is `ZERO` of the norm of the first state, so that an orbit that dies out arrives at zero. An example has
**arrived** when three conditions hold: r is within the tolerance, a contraction rate q fitted to the last steps is below one
beyond its error, and the remaining distance r / (1 - q) is within ten tolerances. The last condition excludes drift, whose
residual falls as 1/t while q approaches one.

A residual at the rounding floor says nothing about the map. It counts as arrived if the floor is within the tolerance. If the
step computes less precisely than its state is kept, the floor has to be measured (`loopscope.fixed_points.noise_floor`), and
the state must also be at rest there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit
from torch import Tensor

from loopscope.contexts import check_time
from loopscope.errors import LoopscopeError, check_count, check_history, check_tolerance
from loopscope.fixed_points.residual import ZERO, state_dtype
from loopscope.loop import Loop, mask_of
from loopscope.stability.orbits.rounding import Floor, Rest, floor_of
from loopscope.trees import (
    Tree,
    batch_size,
    device_of,
    flatten,
    floating_leaves,
    join,
    scaled_norm,
    select,
    token_norms,
    tree_map,
    where,
)

FIT_STEPS = 8
"""Number of steps over which the contraction rate is fitted."""
CACHED_NUMBERS = 2**18
"""Count of numbers in the states that are stepped together on a CPU: 12 boards of 81 x 256, whose activations fit its cache."""
REMAINING_IN_TOLERANCES = 10.0
"""The remaining distance r / (1 - q) of a state that has arrived is at most this many tolerances."""
ASSUMED_RATE = 0.9
"""Contraction rate that is assumed for the error of a state at the rounding floor if its own rate may not be below one."""
APPROACHED = 0.05
"""An orbit may count as on its way to a known fixed point within this fraction of its first distance to it."""
LEFT_OVER = 0.25
"""The extrapolated limit of the distance to a known fixed point may be at most this fraction of the present distance."""


@dataclass(frozen=True)
class FixedPoints:
    """States that are taken as fixed points, with their errors.

    Attributes:
        state: a state per example.
        error: estimated distance to the fixed point, in the units of the state.
        arrived: whether the state is a fixed point within the tolerance.
    """

    state: Tree
    error: Float[Tensor, "batch"]
    arrived: Bool[Tensor, "batch"]

    def take(self, rows: Tensor | slice) -> FixedPoints:
        """Return the fixed points of some examples, given by indices, a boolean mask or a slice of the batch."""
        return FixedPoints(select(self.state, rows), self.error[rows], self.arrived[rows])


@dataclass(frozen=True)
class Ends(FixedPoints):
    """The ends of orbits. NaN stands for values that could not be computed.

    Attributes:
        state: the states after the last step of each example; the last finite state of an example that diverged.
        error: radius times scale, the estimated distance to the fixed point.
        arrived: whether the state has arrived, as defined at the top of this module.
        iterations: evaluations of the step per example; fewer than the budget if the example left early.
        residual: relative residual of each evaluation. After an example has left, its last residual is repeated.
        norm: norm of the state after each evaluation, continued in the same way.
        rate: contraction rate q per step, fitted to log r over the last steps above rounding.
        rate_error: half width of its 95% interval.
        radius: r / (1 - q), the remaining relative distance to the fixed point, with r no smaller than rounding. It is
            infinite if q >= 1, except at the rounding floor, where q is then taken to be `ASSUMED_RATE`.
        scale: the denominator of r at the end, max(||z||, ||f(z)||, tiny).
        at_floor: the residual is at the rounding floor.
        diverged: the state is no longer finite.
        approached: the orbit left early on its way to a known fixed point, whose ``state``, ``error`` and ``arrived`` it takes.
        tolerance: the tolerance on r.
        floor: the rounding floor.
    """

    iterations: Int[Tensor, "batch"]
    residual: Float[Tensor, "iterations batch"]
    norm: Float[Tensor, "iterations batch"]
    rate: Float[Tensor, "batch"]
    rate_error: Float[Tensor, "batch"]
    radius: Float[Tensor, "batch"]
    scale: Float[Tensor, "batch"]
    at_floor: Bool[Tensor, "batch"]
    diverged: Bool[Tensor, "batch"]
    approached: Bool[Tensor, "batch"]
    tolerance: float
    floor: Floor

    @property
    def levelled(self) -> Bool[Tensor, "batch"]:
        """Whose last residuals are all rounding, though it is not known whether the state has arrived."""
        return ~self.arrived & ~self.diverged & (self.residual[-FIT_STEPS:].amax(0) <= self.floor.residual)


@dataclass(frozen=True)
class Step:
    """One evaluation of the step for the examples that are still followed, as an observer sees it.

    Attributes:
        index: 0 for the evaluation at the first state.
        rows: the positions of these examples in the batch.
        before: their states before it.
        after: their states after it.
        recalled: their recalled input.
        mask: their mask of real tokens.
        residual: relative residual of the step.
        change: norm of the change, per token.
        scale: the larger of the norms before and after, per token, and at least tiny.
    """

    index: int
    rows: Int[Tensor, "active"]
    before: Tree
    after: Tree
    recalled: Tree
    mask: Bool[Tensor, "active *grid"] | None
    residual: Float[Tensor, "active"]
    change: Float[Tensor, "active tokens"]
    scale: Float[Tensor, "active tokens"]


def ratio(change: Tensor, scale: Tensor) -> Tensor:
    """Return change / scale, 0 for 0 / 0, and infinity where either is not finite."""
    quotient = change / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    return torch.where(quotient.isfinite() & scale.isfinite(), quotient, torch.inf)


def step_in_parts(loop: Loop, state: Tree, recalled: Tree, numbers: int = CACHED_NUMBERS) -> Tree:
    """Return the states after one step. On a CPU, a few examples are stepped at a time, so that activations stay in its cache.

    Args:
        loop: a loop whose examples do not depend on each other.
        state: the states.
        recalled: their recalled inputs.
        numbers: largest number of floats in the states that are stepped together, unless one example has more.
    """
    batch = batch_size(state)
    together = max(1, numbers // max(1, sum(leaf[0].numel() for leaf in floating_leaves(state))))
    if together >= batch or device_of(state).type != "cpu":
        return loop.step(state, recalled)
    parts = [slice(begin, begin + together) for begin in range(0, batch, together)]
    return join([loop.step(select(state, part), select(recalled, part)) for part in parts])


def difference(after: Tree, before: Tree) -> Tree:
    """Return after - before; leaves that are not floating are taken from ``after``."""
    return tree_map(lambda new, old: new - old if new.is_floating_point() else new, after, before)


def line(values: Float[Tensor, "points batch"], used: Bool[Tensor, "points batch"]) -> tuple[Tensor, Tensor]:
    """Fit a straight line per example and return its slope per point with the half width of its 95% interval.

    Args:
        values: one column per example, at equally spaced points.
        used: the points that count. With fewer than two the slope is NaN, with fewer than three its error is infinite.
    """
    weight = used.to(torch.float64)
    level = torch.where(used, values, 0).to(torch.float64)
    count = weight.sum(0)
    time = torch.arange(len(values), dtype=torch.float64, device=values.device)[:, None] * weight
    time = (time - time.sum(0) / count) * weight
    level = (level - level.sum(0) / count) * weight
    spread = time.square().sum(0)
    slope = (time * level).sum(0) / spread
    noise = (level - slope * time).square().sum(0)
    freedom = (count - 2).clamp_min(0)
    quantile = torch.as_tensor(stdtrit(freedom.clamp_min(1).cpu().numpy(), 0.975), device=values.device)
    error = quantile * (noise / freedom / spread).sqrt()
    unfitted = count < 2
    return slope.masked_fill(unfitted, torch.nan), error.masked_fill(count < 3, torch.inf)


def contraction(residual: Float[Tensor, "iterations batch"], floor: Floor) -> tuple[Tensor, Tensor]:
    """Return the contraction rate q per step and the half width of its 95% interval, per example.

    log r is fitted over the last eight steps, or over the eight that lead to the rounding floor, where the residual says
    nothing about the map.
    """
    count = len(residual)
    above = residual > floor.residual
    steps = torch.arange(1, count + 1, device=residual.device)[:, None]
    # The first evaluation of the final stretch at the floor, or the last evaluation if there is no such stretch.
    last = (above * steps).amax(0).clamp_max(count - 1)
    window = last - torch.arange(FIT_STEPS - 1, -1, -1, device=residual.device)[:, None]
    values = residual.gather(0, window.clamp_min(0))
    logs = values.to(torch.float64).clamp_min(floor.error).log()
    slope, error = line(logs, (window >= 0) & values.isfinite())
    rate = slope.exp()
    return rate.to(residual.dtype), (rate * error).nan_to_num(nan=torch.inf, posinf=torch.inf).to(residual.dtype)


def _residual_in_double(state: Tree, after: Tree, mask: Tensor | None) -> Float[Tensor, "batch"]:
    """Return relative residuals of finite states whose norms may be too large for their precision."""
    before, now = (flatten(tree, mask).double() for tree in (state, after))
    return ratio(scaled_norm(now - before), torch.maximum(scaled_norm(before), scaled_norm(now)))


def _arrival_of(
    residual: Float[Tensor, "iterations batch"], resting: Bool[Tensor, "batch"], tolerance: float, floor: Floor
) -> dict[str, Tensor]:
    """Return what residuals say about arrival; only states that are ``resting`` may arrive by the floor."""
    rate, error = contraction(residual, floor)
    last = residual[-1]
    at_floor = last <= floor.residual
    known = torch.where((rate < 1) | ~at_floor, rate, ASSUMED_RATE)
    radius = torch.where(known < 1, last.clamp_min(floor.distance) / (1 - known), torch.inf)
    near = (last <= tolerance) & (rate + error < 1) & (radius <= REMAINING_IN_TOLERANCES * tolerance)
    return {"rate": rate, "rate_error": error, "radius": radius, "at_floor": at_floor, "arrived": near | resting}


class _Approach:
    """The distances of orbits to known fixed points."""

    def __init__(self, known: FixedPoints, start: Tree, mask: Tensor | None) -> None:
        self.points, self.arrived = flatten(known.state, mask), known.arrived
        self.distances = [scaled_norm(flatten(start, mask) - self.points)]
        self.near = APPROACHED * self.distances[0]

    def seen(self, rows: Int[Tensor, "active"], state: Tree, mask: Tensor | None) -> Bool[Tensor, "active"]:
        """Record the states after one more step, and return which of their orbits are on their way to the known point.

        The distance of such an orbit is at most `APPROACHED` times its first distance, and falls at a rate below one beyond its
        error. Aitken's extrapolation of the distance must be near zero, which excludes orbits on their way to a neighbouring
        point or to another point on a line of fixed points.
        """
        now = torch.full_like(self.distances[0], torch.nan)
        now[rows] = scaled_norm(flatten(state, mask) - self.points[rows])
        self.distances = [*self.distances[1 - FIT_STEPS :], now]
        near = self.arrived[rows] & (now[rows] <= self.near[rows])
        if len(self.distances) < FIT_STEPS or not bool(near.any()):
            return torch.zeros_like(near)
        history = torch.stack(self.distances)[:, rows]
        slope, error = line(history.log(), history > 0)
        first, middle, last = history[1], history[4], history[7]
        limit = last - (last - middle).square() / (last - 2 * middle + first)
        return near & (slope + error < 0) & (limit.abs() <= LEFT_OVER * last)


def _check(recalled: Tree, start: Tree, iterations: int, tolerance: float) -> None:
    check_count(iterations=iterations)
    check_tolerance(tolerance)
    if batch_size(recalled) != batch_size(start):
        raise LoopscopeError(
            f"expected states and recalled inputs of the same batch, got {batch_size(start)} states and "
            f"{batch_size(recalled)} recalled inputs"
        )


def follow(
    loop: Loop,
    recalled: Tree,
    start: Tree,
    *,
    iterations: int,
    tolerance: float = 1e-4,
    until: Literal["rounding", "arrival", "end"] = "rounding",
    toward: FixedPoints | None = None,
    observe: Callable[[Step], None] | None = None,
    stop: Callable[[], bool] | None = None,
    floor: Floor | None = None,
) -> Ends:
    """Follow every example's orbit for at most ``iterations`` evaluations of the step.

    An example leaves the batch when its state stops being finite or its orbit is finished: with ``until="rounding"`` after
    eight consecutive residuals at the rounding floor, with ``until="arrival"`` as soon as it has arrived. With
    ``until="end"`` orbits are never finished, since a step that changes over time may move a state that had settled. If a
    fixed point is known to which an orbit may go, the example also leaves once it is clearly on its way there, and counts as
    arrived. This saves most steps of slow orbits.

    Args:
        loop: any loop.
        recalled: its recalled input.
        start: the first states.
        iterations: largest number of iterations per orbit.
        tolerance: relative residual within which a state may count as arrived.
        until: when an example may leave.
        toward: a known fixed point per example, for orbits that start elsewhere.
        observe: called after every evaluation with its `Step`.
        stop: called after every evaluation; once it returns true, every orbit ends where it is.
        floor: the rounding floor, where it was measured; that of the state's type by default.

    Raises:
        LoopscopeError: a budget or tolerance is out of range, a state is in half precision, or batches disagree.
    """
    _check(recalled, start, iterations, tolerance)
    dtype, batch, device = state_dtype(start), batch_size(start), device_of(start)
    least = floor_of(dtype)
    floor = floor or least
    # Where the floor is above the tolerance, only residuals within the tolerance may count as arrived.
    level = min(floor.residual, max(tolerance, least.residual))
    check_history(iterations, 2 * batch * dtype.itemsize)
    residual = torch.full((iterations, batch), math.nan, dtype=dtype, device=device)
    norm = residual.clone()
    verdicts = {name: torch.zeros(batch, dtype=dtype, device=device) for name in ("rate", "rate_error", "radius")}
    verdicts |= {name: torch.zeros(batch, dtype=torch.bool, device=device) for name in ("at_floor", "arrived")}
    diverged, approached = torch.zeros(2, batch, dtype=torch.bool, device=device)
    spent = torch.zeros(batch, dtype=torch.long, device=device)
    final_scale = torch.zeros(batch, dtype=dtype, device=device)
    rows = torch.arange(batch, device=device)
    quiet = torch.zeros(batch, dtype=torch.long, device=device)
    left_rows, left_states = [], []

    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        mask = mask_of(loop, recalled)
        approach = None if toward is None else _Approach(toward, start, mask)
        rest = Rest(start, mask, level, iterations) if floor.is_above(least) else None
        state = start
        size = token_norms(state, mask)
        # The bound is relative to the first state, so that residuals do not depend on its unit. An orbit that starts at zero
        # needs no such bound: if zero were its fixed point, it would stay there.
        tiny = ZERO * scaled_norm(size, keepdim=True)
        for index in range(iterations):
            check_time()
            after = step_in_parts(loop, state, recalled)
            change = token_norms(difference(after, state), mask)
            size_after = token_norms(after, mask)
            whole, whole_after = (scaled_norm(part) for part in (size, size_after))
            scale = torch.maximum(whole, whole_after).clamp_min(tiny[:, 0])
            now = ratio(scaled_norm(change), scale).to(dtype)
            if not bool(now.isfinite().all()):
                now = torch.where(now.isfinite(), now, _residual_in_double(state, after, mask).to(dtype))
            residual[index, rows], norm[index, rows] = now, whole_after.to(dtype)
            if observe is not None:
                larger = torch.maximum(size, size_after).clamp_min(tiny)
                observe(Step(index, rows, state, after, recalled, mask, now, change, larger))
            lost = ~now.isfinite()
            quiet = torch.where(now <= level, quiet + 1, 0)
            resting = quiet > 0
            if rest is not None:
                resting = (quiet >= FIT_STEPS) & rest.seen(index, rows, after, mask, scale)
            if until == "arrival":
                history = residual[max(0, index + 1 - 4 * FIT_STEPS) : index + 1, rows]
                done = now <= tolerance
                done = done & _arrival_of(history, resting, tolerance, floor)["arrived"] if done.any() else done
            else:
                done = resting & (quiet >= FIT_STEPS) & (until == "rounding")
            coming = torch.zeros_like(lost) if approach is None else approach.seen(rows, after, mask) & ~lost
            over = index == iterations - 1 or (stop is not None and stop())
            leaving = torch.ones_like(lost) if over else lost | done | coming
            if leaving.any():
                gone = rows[leaving]
                seen = residual[: index + 1, gone]
                for name, values in _arrival_of(seen, resting[leaving], tolerance, floor).items():
                    verdicts[name][gone] = values
                diverged[gone], spent[gone], final_scale[gone] = lost[leaving], index + 1, scale[leaving].to(dtype)
                residual[index:, gone], norm[index:, gone] = residual[index, gone], norm[index, gone]
                left_rows.append(gone)
                left_states.append(where(lost[leaving], select(state, leaving), select(after, leaving)))
                approached[gone] = coming[leaving] & ~verdicts["arrived"][gone]
                if leaving.all():
                    break
                stay = ~leaving
                rows, quiet, size_after, tiny = rows[stay], quiet[stay], size_after[stay], tiny[stay]
                after, recalled = select(after, stay), select(recalled, stay)
                mask = None if mask is None else mask[stay]
            state, size = after, size_after
    ends = select(join(left_states), torch.argsort(torch.cat(left_rows)))
    if toward is not None:
        ends = where(approached, toward.state, ends)
        verdicts["radius"] = torch.where(approached, (toward.error / final_scale).to(dtype), verdicts["radius"])
        verdicts["arrived"] |= approached
    return Ends(
        state=ends,
        error=verdicts["radius"] * final_scale,
        iterations=spent,
        residual=residual,
        norm=norm,
        scale=final_scale,
        diverged=diverged,
        approached=approached,
        tolerance=tolerance,
        floor=floor,
        **verdicts,
    )
