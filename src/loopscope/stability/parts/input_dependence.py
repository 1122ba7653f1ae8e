"""Input-dependence, or whether the fixed point is this input's own: swaps, distinct fixed points, variance and sensitivity."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from loopscope.loop import mask_of
from loopscope.schema import to_plain
from loopscope.stability.dependence.distinct import Growth, distinct_fixed_points
from loopscope.stability.dependence.sensitivity import finite_input_change, input_sensitivity, start_sensitivity
from loopscope.stability.dependence.swap_test import Swap, SwapOutcome, SwapTest, swap_test
from loopscope.stability.dependence.variance import variance_share
from loopscope.stability.distances import why_alone
from loopscope.stability.parts.progress import Progress
from loopscope.stability.parts.sample import Sample
from loopscope.stability.results import (
    DistinctResult,
    InputDependenceResult,
    SensitivityResult,
    SwapResult,
    VarianceResult,
)
from loopscope.trees import select


def measure_input_dependence(sample: Sample, progress: Progress) -> InputDependenceResult:
    """Measure input-dependence as far as the effort goes. The rest is None, and ``progress`` keeps the reasons."""
    test = progress.run("swaps", lambda: _swap(sample))
    if test is not None and (alone := _why_alone(sample, test)):
        progress.skip(["swaps"], alone)
    swaps = None if test is None else _swap_result(test)
    if not bool(sample.trajectory.arrived.any()):
        progress.skip(["distinct fixed points"], "no orbit arrived")
        return InputDependenceResult(swaps=swaps)
    growth = progress.run("distinct fixed points", lambda: _distinct(sample))
    if test is not None and swaps is not None and growth is not None:
        swaps = replace(swaps, shared=test.fraction_shared(growth.common_cluster))
    budget = sample.budget
    return InputDependenceResult(
        swaps=swaps,
        distinct=None if growth is None else DistinctResult(to_plain(growth.own), to_plain(growth.common)),
        variance=progress.run("variance", lambda: _variance(sample)) if budget.starts else None,
        sensitivity=progress.run("sensitivity", lambda: _sensitivity(sample)) if budget.solves else None,
    )


def _swap(sample: Sample) -> SwapTest:
    return swap_test(
        sample.loop,
        select(sample.recalled, sample.far),
        sample.trajectory.take(sample.far),
        iterations=sample.secondary_iterations,
        tolerance=sample.config.tolerance,
        floor=sample.floor,
    )


def _why_alone(sample: Sample, test: SwapTest) -> str | None:
    """Return why most inputs have no partner for a swap, or None if they have one."""
    recalled = select(sample.recalled, sample.far)
    return why_alone(test.partner, recalled, mask_of(sample.loop, recalled))


def _swap_result(test: SwapTest) -> SwapResult:
    return SwapResult(
        recall=_counts(test.recall),
        start=_counts(test.start),
        moved=test.recall.fraction_moved,
        shared=test.recall.fraction_shared,
    )


def _counts(swap: Swap) -> dict[str, int]:
    counts = Counter(swap.outcomes)
    return {outcome.value: counts[outcome] for outcome in SwapOutcome}


def _distinct(sample: Sample) -> Growth:
    return distinct_fixed_points(
        sample.loop,
        select(sample.recalled, sample.far),
        sample.trajectory.take(sample.far),
        select(sample.start, sample.far),
        iterations=sample.secondary_iterations,
        tolerance=sample.config.tolerance,
        floor=sample.floor,
    )


def _variance(sample: Sample) -> VarianceResult:
    state, recalled = sample.at(sample.near)
    found = variance_share(
        sample.loop,
        recalled,
        state,
        iterations=sample.secondary_iterations,
        starts=sample.budget.starts,
        tolerance=sample.config.tolerance,
        seed=sample.config.seed,
        known=sample.trajectory.take(sample.near),
        floor=sample.floor,
    )
    return VarianceResult(**to_plain(found))


def _sensitivity(sample: Sample) -> SensitivityResult:
    loop, rows, seed = sample.loop, sample.near, sample.config.seed
    iterations, tolerance = sample.secondary_iterations, sample.config.tolerance
    fixed, recalled, inputs = sample.trajectory.take(rows), select(sample.recalled, rows), select(sample.inputs, rows)
    linear = input_sensitivity(loop, recalled, fixed, inputs=inputs, seed=seed)
    check = finite_input_change(
        loop,
        recalled,
        fixed,
        linear,
        inputs=inputs,
        iterations=iterations,
        tolerance=tolerance,
        floor=sample.floor,
    )
    through_start = start_sensitivity(
        loop,
        recalled,
        select(sample.start, rows),
        iterations=iterations,
        tolerance=tolerance,
        seed=seed,
        known=fixed,
        floor=sample.floor,
    )
    return SensitivityResult(
        path=linear.path,
        gain=to_plain(linear.gain[0]),
        relative=to_plain(linear.relative[0]),
        disagreement=to_plain(check.disagreement),
        start_gain=to_plain(through_start.gain),
    )
