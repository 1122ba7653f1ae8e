"""Measure a loop without a single map, and put its examination together."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from loopscope.kinds import TimedLoop
from loopscope.loop import mask_of
from loopscope.schema import to_plain
from loopscope.stability.distances import in_pairs, why_alone
from loopscope.stability.examination import Examination
from loopscope.stability.nonautonomous.axes import Axes, advise, judge_axes, verdict_of
from loopscope.stability.nonautonomous.kept import answers_kept, draws_of
from loopscope.stability.nonautonomous.noise_size import levelled_residual, noise_of_step
from loopscope.stability.nonautonomous.results import (
    ExponentsResult,
    KeptResult,
    KindResult,
    NoiseResult,
    NonautonomousResult,
)
from loopscope.stability.nonautonomous.swaps import SwapAt, swap_along
from loopscope.stability.orbits.answers import Answers
from loopscope.stability.orbits.trace import Trajectory, quantiles
from loopscope.stability.parts.progress import Progress
from loopscope.stability.parts.reachability import QUANTILES, curves, readout_broken_at, settled_tokens
from loopscope.stability.parts.reachability import answers as final_answers
from loopscope.stability.parts.sample import Sample
from loopscope.stability.results import (
    GeometryResult,
    InputDependenceResult,
    ReachabilityResult,
    Settings,
    SwapResult,
)
from loopscope.stability.spectrum.exponents import exponents_along
from loopscope.stability.verdict import is_provisional
from loopscope.trees import select

COUNTS = {"quick": (2, 2), "standard": (4, 4), "thorough": (8, 8)}
"""Exponents per input, and draws of the noise, by effort."""
UNDEFINED = ("portrait", "basin", "spectrum", "distinct fixed points", "gradients", "transient growth")
"""Parts of the examination of an autonomous loop that rest on a fixed point."""
SETTLES, MOVES, DIVERGES = "settles", "keeps moving", "diverging"
"""What orbits do: none of it claims a fixed point."""


def judge_nonautonomous(
    sample: Sample, kind: KindResult, settings: Settings, answers: Answers | None, progress: Progress
) -> Examination:
    """Measure what is defined for a loop of this kind, and judge it.

    Args:
        sample: the inputs and their orbits, which went on to the end.
        kind: the kind of loop.
        settings: of the examination.
        answers: see ``examine``.
        progress: of the examination.
    """
    trajectory, accuracy = sample.trajectory, settings.accuracy
    progress.skip(UNDEFINED, kind.undefined)
    found, swaps = _measured(sample, answers, progress)
    shown = curves(trajectory)
    axes: Axes = judge_axes(found, swaps, shown.residual[1][-1])
    decided = verdict_of(axes, accuracy)
    progress.end()
    return Examination(
        verdict=decided,
        provisional=is_provisional(*axes, easy_accuracy=accuracy),
        advice=advise(decided, kind, axes, found, accuracy, progress.unknown),
        axes=axes,
        normalized_axes=None,
        settings=settings,
        curves=shown,
        reachability=orbits_of(trajectory),
        spectrum=None,
        basin=None,
        input_dependence=InputDependenceResult(swaps=swaps),
        geometry=GeometryResult(),
        tokens=settled_tokens(trajectory),
        portrait=None,
        unknown=progress.unknown,
        seconds=progress.seconds,
        answers=final_answers(trajectory),
        kind=kind,
        nonautonomous=found,
    )


def _measured(
    sample: Sample, answers: Answers | None, progress: Progress
) -> tuple[NonautonomousResult, SwapResult | None]:
    swapped = progress.run("swaps", lambda: _swaps(sample))
    alone = None if swapped is None else _why_alone(sample, swapped)
    if alone:
        progress.skip(["swaps"], alone)
    found = NonautonomousResult(
        answers=progress.run("answers kept", lambda: _kept(sample, answers, progress)),
        exponents=progress.run("exponents", lambda: _exponents(sample, progress)),
        swapped_at=None if swapped is None else swapped.iteration,
        contraction=[] if swapped is None else to_plain(swapped.contraction),
        noise=progress.run("noise", lambda: _noise(sample)) if _is_random(sample) else None,
        parts=dict(getattr(_inner(sample), "part_radii", {})),
    )
    return found, None if swapped is None else swapped.result()


def _inner(sample: Sample) -> object:
    return sample.loop.loop if isinstance(sample.loop, TimedLoop) else sample.loop


def _is_random(sample: Sample) -> bool:
    return isinstance(sample.loop, TimedLoop) and sample.loop.wants.generator


def reference_of(sample: Sample) -> int:
    """Return the iteration whose answers are compared with later ones, and at which inputs are swapped."""
    trained, last = sample.trained, sample.iterations
    return trained if trained is not None and trained < last else max(1, last // 2)


def _few(sample: Sample, count: int) -> Tensor:
    """Return some examples, those that can be swapped with each other first."""
    rows = torch.arange(len(sample.trajectory.arrived), device=sample.trajectory.arrived.device)
    return in_pairs(rows, sample.recalled, mask_of(sample.loop, sample.recalled))[:count]


def _kept(sample: Sample, answers: Answers | None, progress: Progress) -> KeptResult:
    rows = _few(sample, sample.budget.swapped)
    return answers_kept(
        draws_of(sample.loop, COUNTS[sample.config.effort][1]),
        select(sample.recalled, rows),
        select(sample.start, rows),
        iterations=sample.iterations,
        reference=min(reference_of(sample), sample.iterations),
        answers=answers,
        stop=progress.late,
    )


def _swaps(sample: Sample) -> SwapAt:
    rows = _few(sample, sample.budget.swapped)
    return swap_along(
        sample.loop,
        select(sample.recalled, rows),
        select(sample.start, rows),
        iteration=reference_of(sample),
        until=sample.iterations,
    )


def _why_alone(sample: Sample, swapped: SwapAt) -> str | None:
    recalled = select(sample.recalled, _few(sample, sample.budget.swapped))
    return why_alone(swapped.partner, recalled, mask_of(sample.loop, recalled))


def _exponents(sample: Sample, progress: Progress) -> ExponentsResult:
    rows = _few(sample, sample.budget.jacobians)
    found = exponents_along(
        sample.loop,
        select(sample.recalled, rows),
        select(sample.start, rows),
        iterations=sample.iterations,
        count=COUNTS[sample.config.effort][0],
        seed=sample.config.seed,
        stop=progress.late,
    )
    return ExponentsResult(
        rows=to_plain(rows),
        values=to_plain(found.values),
        error=to_plain(found.error),
        growth=to_plain(quantiles(found.growth[:, :, 0].exp(), QUANTILES)),
        first=found.first,
        counted=to_plain(found.counted),
    )


def _noise(sample: Sample) -> NoiseResult:
    assert isinstance(sample.loop, TimedLoop)
    trajectory = sample.trajectory
    step = noise_of_step(sample.loop, trajectory.state, sample.recalled)
    return NoiseResult(step=to_plain(step), residual=to_plain(levelled_residual(trajectory.residual)))


def orbits_of(trajectory: Trajectory) -> ReachabilityResult:
    """Return what orbits do, without a claim of fixed points: whether the state settles, keeps moving or diverges."""
    inputs = len(trajectory.diverged)
    nothing: list[float | None] = [None] * inputs
    settled = (trajectory.residual[-1] <= trajectory.tolerance) & ~trajectory.diverged
    labels, reasons = [], []
    for row in range(inputs):
        residual = float(trajectory.residual[-1, row])
        if trajectory.diverged[row]:
            labels.append(DIVERGES)
            reasons.append(f"not finite after {int(trajectory.iterations[row])} iterations")
        else:
            labels.append(SETTLES if settled[row] else MOVES)
            reasons.append(f"residual {residual:.2g} at the end")
    needed = trajectory.iterations_to_tolerance.double()
    return ReachabilityResult(
        arrived=[False] * inputs,
        iterations_to_tolerance=to_plain(torch.where(needed > 0, needed, torch.nan)),
        rate=nothing,
        rate_error=nothing,
        distance_left=nothing,
        norm=to_plain(trajectory.norm[-1]),
        start_norm=to_plain(trajectory.start_norm),
        labels=labels,
        reasons=reasons,
        period=[0] * inputs,
        lyapunov=nothing,
        lyapunov_error=nothing,
        growth=nothing,
        left_at=[0] * inputs,
        counts=dict(Counter(labels)),
        readout_broken_at=to_plain(readout_broken_at(trajectory)),
        answered=to_plain(trajectory.answered[-1]),
    )
