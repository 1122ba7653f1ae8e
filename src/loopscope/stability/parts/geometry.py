"""Geometry: whether the fixed point is smooth, and whether gradients pass."""

from __future__ import annotations

import math
from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.loop import mask_of, outer_gain_of
from loopscope.schema import to_plain
from loopscope.stability.geometry import agreement, gradient_norms, radial_mode
from loopscope.stability.orbits.trace import quantiles
from loopscope.stability.parts.progress import Progress
from loopscope.stability.parts.reachability import QUANTILES
from loopscope.stability.parts.sample import Sample
from loopscope.stability.results import (
    GeometryResult,
    GradientResult,
    LipschitzResult,
    Numbers,
    ResolventResult,
    SpectrumResult,
    TransientResult,
)
from loopscope.stability.spectrum.singular_values import lipschitz, power_norms, resolvent_norm
from loopscope.trees import select

GRADIENT_ITERATIONS = 30
"""Number of iterations that gradients pass if the trained number is unknown."""


def measure_geometry(sample: Sample, spectrum: SpectrumResult | None, progress: Progress) -> GeometryResult:
    """Measure geometry as far as the effort goes. The rest is None, and ``progress`` keeps the reasons.

    Args:
        sample: the inputs and their orbits.
        spectrum: the spectral radii, to which the growth of gradients is compared.
        progress: runs the parts.
    """
    gradients = progress.run("gradients", lambda: _gradients(sample, spectrum))
    radial_gain = progress.run("radial mode", lambda: _radial_gain(sample))
    rows = sample.near[sample.trajectory.arrived[sample.near]]
    if not len(rows):
        reason = "no orbit arrived: it is defined at a fixed point"
        progress.skip(["smoothness", "resolvent", "transient growth"], reason)
        return GeometryResult(gradients=gradients, radial_gain=radial_gain)
    solves = sample.budget.solves
    smoothness = progress.run("smoothness", lambda: _lipschitz(sample, rows))
    return GeometryResult(
        rows=to_plain(rows),
        gradients=gradients,
        radial_gain=radial_gain,
        lipschitz=smoothness,
        resolvent=progress.run("resolvent", lambda: _resolvent(sample, rows)) if solves else None,
        transient=progress.run("transient growth", lambda: _transient(sample, rows)) if solves else None,
        input_is_discrete="smoothness" in progress.undefined,
    )


def _gradients(sample: Sample, spectrum: SpectrumResult | None) -> GradientResult:
    length = min(sample.trained or GRADIENT_ITERATIONS, sample.iterations)
    recalled = select(sample.recalled, sample.far)
    found = gradient_norms(sample.loop, recalled, length, seed=sample.config.seed)
    known = [] if spectrum is None else spectrum.radius_at_fixed_point
    radii = torch.tensor([math.nan if radius is None else radius for radius in known]).to(found.slope)
    return GradientResult(
        rows=to_plain(sample.far),
        norms=to_plain(quantiles(found.norms.T, QUANTILES).T),
        growth=to_plain(found.slope.exp()),
        agreement=to_plain(agreement(found.slope[: len(radii)], radii)),
        labels=dict(Counter(found.label)),
    )


def _radial_gain(sample: Sample) -> Numbers:
    state, recalled = sample.at(sample.near)
    found = radial_mode(sample.loop, state, recalled, outer_gain_of(sample.loop))
    gain: Numbers = to_plain(_token_median(found.gain, mask_of(sample.loop, recalled)))
    return gain


def _token_median(values: Float[Tensor, "batch tokens"], mask: Tensor | None) -> Float[Tensor, "batch"]:
    """Return the median over the real tokens of each input."""
    if mask is not None and mask.flatten(1).shape == values.shape:
        values = values.masked_fill(~mask.flatten(1), math.nan)
    return values.nanmedian(1).values


def _lipschitz(sample: Sample, rows: Tensor) -> LipschitzResult:
    (state, recalled), inputs = sample.at(rows), select(sample.inputs, rows)
    tolerance, seed = sample.budget.tolerance, sample.config.seed
    found = lipschitz(sample.loop, state, recalled, inputs, tolerance=tolerance, seed=seed)
    return LipschitzResult(
        value=to_plain(found.value),
        error=to_plain(found.error),
        converged=to_plain(found.converged),
        relative=to_plain(found.relative),
        path=found.path,
    )


def _resolvent(sample: Sample, rows: Tensor) -> ResolventResult:
    state, recalled = sample.at(rows)
    tolerance, seed = sample.budget.tolerance, sample.config.seed
    found = resolvent_norm(sample.loop, state, recalled, tolerance=tolerance, seed=seed)
    return ResolventResult(
        value=to_plain(found.value), error=to_plain(found.error), converged=to_plain(found.converged)
    )


def _transient(sample: Sample, rows: Tensor) -> TransientResult:
    state, recalled = sample.at(rows)
    tolerance, seed = sample.budget.tolerance, sample.config.seed
    found = power_norms(sample.loop, state, recalled, tolerance=tolerance, seed=seed)
    return TransientResult(powers=list(found.powers), norms=to_plain(found.norms.T))
