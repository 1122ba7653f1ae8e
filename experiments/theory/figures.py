"""Figures of the theory: the scalar stability regions, and the maps over the spectral regime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.theory.maps import AXES, SpectralMap
from experiments.theory.scalar import REGIONS, ScalarRegion, draw_gains
from loopscope.reports.kit.charts import COLOURS, INK, RC, SHADE, Panel, draw_panels, tidy

REACH = 4.0
"""Largest gain in the drawing of the scalar regions."""
KINDS = {
    "all three": COLOURS[0],
    "reachability, input-dependence": COLOURS[5],
    "reachability, geometry": COLOURS[4],
    "reachability alone": COLOURS[1],
    "reachability does not hold": "#dfe3ea",
}
"""What holds at a point of a map, and its colour."""


def _region_panel(region: ScalarRegion, sigma: float, shown: int, seed: int) -> Panel:
    gains = draw_gains(sigma, shown, seed)
    projected = region.project(gains)
    kept = region.contains(gains)

    def draw(axes: Axes) -> None:
        side = np.linspace(-REACH, REACH, 801)
        a, b = np.meshgrid(side, side)
        stable = region.contains(np.stack([a.ravel(), b.ravel()], axis=1)).reshape(a.shape)
        axes.contourf(a, b, stable.astype(float), levels=[0.5, 1.5], colors=[COLOURS[5]], alpha=0.28)
        ways = np.stack([gains[~kept], projected[~kept]], axis=1)
        for way in ways:
            axes.plot(*way.T, c=SHADE, lw=0.5, alpha=0.5, zorder=1)
        axes.plot(*gains[kept].T, "o", c=COLOURS[0], ms=2.4, mew=0, label="inside already")
        axes.plot(*projected[~kept].T, "o", c=COLOURS[1], ms=3.2, mew=0, label="after projection")
        axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH))
        tidy(axes, "a, gain of W_state", "b, slope of the sub-layer", f"{region.recall}: {region.formula}")

    return Panel(draw, width=4.4, height=4.7)


def scalar_figure(sigma: float = 2.0, shown: int = 300, seed: int = 0) -> Figure:
    """Return both stability regions of the scalar model, with gains from N(0, sigma² I) and their projections.

    Args:
        sigma: standard deviation of each gain.
        shown: number of gains that are drawn.
        seed: seed of the draw.
    """
    figure, row = draw_panels([_region_panel(region, sigma, shown, seed) for region in REGIONS.values()])
    handles, labels = row[0].get_legend_handles_labels()
    with mpl.rc_context(RC):
        stable = Patch(color=COLOURS[5], alpha=0.28, label="stable")
        figure.legend([stable, *handles], ["stable", *labels], loc="outside lower center", ncols=3, fontsize=9)
    return figure


def kinds(found: SpectralMap) -> np.ndarray:
    """Return what holds at each point of a map, as an index into `KINDS`, [state gains, sub-layer gains]."""
    reach, depends, smooth = np.moveaxis(found.holds, -1, 0)
    return np.where(reach, np.where(depends, np.where(smooth, 0, 1), np.where(smooth, 2, 3)), 4)


def _draw_map(axes: Axes, found: SpectralMap) -> None:
    axes.pcolormesh(
        found.sublayer_gains,
        found.state_gains,
        kinds(found),
        cmap=ListedColormap(list(KINDS.values())),
        vmin=-0.5,
        vmax=len(KINDS) - 0.5,
        shading="nearest",
        edgecolors="white",
        linewidth=0.4,
    )
    axes.set(xscale="log", yscale="log")
    for axis, gains in ((axes.xaxis, found.sublayer_gains), (axes.yaxis, found.state_gains)):
        powers = range(int(np.ceil(np.log10(gains[0]) - 1e-9)), int(np.floor(np.log10(gains[-1]) + 1e-9)) + 1)
        axis.set_major_locator(FixedLocator([10.0**power for power in powers]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    shares = "   ".join(f"{name[0].upper()} {100 * found.areas[name]:.0f}" for name in AXES)
    axes.set_title(f"{found.recall} + {found.norm}: {100 * found.areas['all']:.0f}%\n", fontsize=10, fontweight="bold")
    axes.text(0.5, 1.02, shares, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.5, color=INK)
    axes.spines[:].set_visible(False)


def maps_figure(maps: Sequence[SpectralMap]) -> Figure:
    """Return the maps, with one row per recall and one column per normalization.

    The text above each map gives the areas in percent of its points: all three axes, then (R)eachability,
    (I)nput-dependence and (G)eometry.
    """
    by_pair: Mapping[tuple[str, str], SpectralMap] = {(found.recall, found.norm): found for found in maps}
    recalls, norms = (list(dict.fromkeys(names)) for names in zip(*by_pair, strict=True))
    with mpl.rc_context(RC):
        size = (2.3 * len(norms) + 0.5, 2.35 * len(recalls) + 0.6)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06))
        grid = figure.subplots(len(recalls), len(norms), squeeze=False, sharex=True, sharey=True)
        for (recall, norm), found in by_pair.items():
            _draw_map(grid[recalls.index(recall), norms.index(norm)], found)
        grid[-1, len(norms) // 2].set_xlabel("gain of the sub-layers (1: PyTorch's initialization)")
        grid[len(recalls) // 2, 0].set_ylabel("spectral radius of W_state (none: gain of the argument)")
        handles = [Patch(color=colour, label=kind) for kind, colour in KINDS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return figure
