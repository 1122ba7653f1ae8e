"""Print the tables of docs/concepts/theory.md: python -m experiments.theory (about three minutes on one core)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from experiments.theory.maps import AXES, NORMS, RECALLS, Grid, spectral_map
from experiments.theory.scalar import REGIONS, SIGMAS, projected_balance


def scalar_table(points: int, seed: int) -> str:
    """Return the balance of projected gains as a table in Markdown."""
    lines = [
        "| recall | sigma | mean balance | standard error | on an axis | inside before |",
        "|---|---|---|---|---|---|",
    ]
    for recall in REGIONS:
        for sigma in SIGMAS:
            found = projected_balance(recall, sigma, points, seed)
            numbers = f"{found.mean:.3f} | {found.standard_error:.3f} | {found.on_axis:.3f} | {found.inside:.3f}"
            lines.append(f"| {recall} | {sigma:g} | {numbers} |")
    return "\n".join(lines)


def area_table(grid: Grid, seeds: Sequence[int]) -> str:
    """Return the areas of every recall and normalization, in percent and averaged over networks, as a table in Markdown."""
    lines = [
        f"| recall | norm | {' | '.join(AXES)} | all three | all three, by network |",
        "|---|---|---|---|---|---|---|",
    ]
    for recall in RECALLS:
        for norm in NORMS:
            areas = [list(spectral_map(recall, norm, grid, seed).areas.values()) for seed in seeds]
            means = " | ".join(f"{100 * mean:.0f}" for mean in np.mean(areas, axis=0))
            lines.append(f"| {recall} | {norm} | {means} | {', '.join(f'{100 * own[-1]:.0f}' for own in areas)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.theory", description=__doc__)
    parser.add_argument("--points", type=int, default=10_000, help="gains projected onto each scalar region")
    parser.add_argument("--grid", type=int, default=Grid.points, help="points along each side of a map")
    parser.add_argument("--iterations", type=int, default=Grid.iterations, help="budget of every orbit in a map")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="networks that a map is averaged over")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(scalar_table(options.points, seed=0), end="\n\n")
    print(area_table(Grid(points=options.grid, iterations=options.iterations), options.seeds))


if __name__ == "__main__":
    main()
