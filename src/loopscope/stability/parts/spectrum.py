"""Eigenvalues of the Jacobian at the end of orbits."""

from __future__ import annotations

import torch

from loopscope.schema import to_plain
from loopscope.stability.parts.sample import Sample
from loopscope.stability.results import Numbers, SpectrumResult
from loopscope.stability.spectrum.contradiction import contradicted
from loopscope.stability.spectrum.eigenvalues import spectral_radius, top_eigenvalues
from loopscope.stability.spectrum.finite_difference import check_differences
from loopscope.trees import select


def measure_spectrum(sample: Sample) -> SpectrumResult:
    """Return the spectral radii, whether orbits contradict them, and further eigenvalues of the first input."""
    rows, trajectory, seed = sample.near, sample.trajectory, sample.config.seed
    state, recalled = sample.at(rows)
    found = spectral_radius(sample.loop, state, recalled, seed=seed)
    arrived = trajectory.arrived[rows]
    wrong = contradicted(
        sample.loop, state, recalled, trajectory.residual[:, rows], arrived, found, seed=seed, floor=trajectory.floor
    )
    return SpectrumResult(
        rows=to_plain(rows),
        eigenvalue=to_plain(found.eigenvalue),
        radius=to_plain(found.radius),
        error=to_plain(found.error),
        converged=to_plain(found.converged),
        defective=to_plain(found.defective),
        at_fixed_point=to_plain(arrived),
        rate=to_plain(trajectory.rate[rows]),
        rate_error=to_plain(trajectory.rate_error[rows]),
        contradicted=to_plain(wrong),
        others=_others(sample),
        hidden=to_plain(check_differences(sample.loop, state, recalled, seed=seed).hidden),
    )


def _others(sample: Sample) -> list[Numbers]:
    if not sample.budget.eigenvalues:
        return []
    one = slice(0, 1)
    state, recalled = (select(tree, one) for tree in sample.at(sample.near))
    found = top_eigenvalues(sample.loop, state, recalled, sample.budget.eigenvalues, seed=sample.config.seed)
    others: list[Numbers] = to_plain(torch.view_as_real(found.eigenvalues[0]))
    return others
