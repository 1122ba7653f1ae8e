"""The common parts of all figures: panels, which become a PNG file or SVG drawings in a page, and their axes.

The SVG of a panel takes the text colour of the page, so that it is legible in light and dark themes. The colours of data are
those of Okabe and Ito, which colour-blind readers can distinguish.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d")
ORDERED = ("#2c3dd9", "#734baf", "#a94a86", "#ec496a", "#e98348", "#eab401")
"""Colours of ordered numbers, from dark blue to light yellow, distinct for colour-blind readers on white and black."""
INK, SHADE = "#1c2331", "#8a94a7"
"""Colours of text and axes, and of the background of data."""
THEMED = {INK: "var(--ink)", SHADE: "var(--shade)", COLOURS[0]: "var(--blue)"}
"""Colours that a page replaces by those of its theme."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loopscope",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}

FEW_POWERS = 300
"""Largest ratio of the limits of a logarithmic axis that has ticks between powers of ten."""

Draw = Callable[[Axes], None]


@dataclass(frozen=True)
class Panel:
    """One pair of axes and its drawing.

    Args:
        draw: function that draws into the axes.
        width: width in inches.
        height: height in inches.
    """

    draw: Draw
    width: float = 4.5
    height: float = 3.3


def draw_panels(panels: Sequence[Panel], columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels, and their axes.

    Args:
        panels: the panels.
        columns: largest number of panels in a row; all of them if None.
    """
    columns = min(columns or len(panels), len(panels))
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    widths = [max(row[place].width for row in rows if place < len(row)) for place in range(columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(sum(widths), sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
        grid = figure.subplots(len(rows), columns, squeeze=False, width_ratios=widths, height_ratios=heights)
        drawn, empty = list(grid.flat[: len(panels)]), grid.flat[len(panels) :]
        for axes, panel in zip(drawn, panels, strict=True):
            panel.draw(axes)
        for axes in empty:
            axes.remove()
    return figure, drawn


def share_limits(group: Sequence[Axes]) -> None:
    """Give axes with the same scale the same limits, so that they can be compared by eye."""
    for name in ("x", "y"):
        if len({getattr(axes, f"get_{name}scale")() for axes in group}) > 1:
            continue
        limits = np.array([getattr(axes, f"get_{name}lim")() for axes in group])
        for axes in group:
            getattr(axes, f"set_{name}lim")(limits[:, 0].min(), limits[:, 1].max())


def svg(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element that scales with its column and follows the theme of the page.

    Args:
        figure: the figure.
        label: description for screen readers, as plain text without markup.
    """
    buffer = io.StringIO()
    with mpl.rc_context(RC):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    drawn = buffer.getvalue()
    width, height = (72 * inches for inches in figure.get_size_inches())
    inside = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    # A hundredth of a point is finer than any screen. Six digits would double the size of a page with many curves.
    inside = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), inside)
    # Names of groups repeat in every figure but must be unique in a page. Nothing refers to them.
    inside = re.sub(r'<g id="[^"]*"', "<g", inside).replace("xlink:href", "href")
    for colour, themed in THEMED.items():
        inside = inside.replace(colour, themed)
    shape = f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{1.12 * width / 72 * 96:.0f}px"'
    return f'<svg role="img" aria-label="{label}" {shape}>{inside}'


def ordered_colours(count: int) -> list[str]:
    """Return ``count`` colours for ordered numbers, evenly spaced on the ramp ``ORDERED``."""
    ramp = LinearSegmentedColormap.from_list("ordered", ORDERED)
    return [to_hex(ramp(place)) for place in np.linspace(0, 1, count)]


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """Return values as an array, with NaN (drawn as a gap) for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def tidy(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Label axes and give them a quiet frame and grid."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(color=SHADE, alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def shade_training(axes: Axes, trained: int | None) -> None:
    """Shade the iterations that training used."""
    if trained:
        axes.axvspan(1, max(trained, 1.05), color=SHADE, alpha=0.2, lw=0)


def iteration_axis(axes: Axes, longest: int) -> None:
    """Set up a horizontal axis of iterations, from 1 on a log scale, with plain numbers."""
    axes.set_xscale("log")
    axes.set_xlim(1, max(longest, 2))
    ticks = [tick * 10**power for power in range(6) for tick in (1, 3) if tick * 10**power <= longest]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _power(value: float, _: Any) -> str:
    if 0.01 <= value <= 1000:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    lead = round(value / 10**exponent)
    return f"{'' if lead == 1 else f'{lead}·'}10{str(exponent).translate(RAISED)}"


class _SizeLocator(Locator):
    """Ticks of a logarithmic axis: powers of ten, and 2 and 5 between them where the axis spans few powers.

    They follow the limits that the axis has when it is drawn, which ``share_limits`` may widen.
    """

    def __call__(self) -> Sequence[float]:
        assert self.axis is not None
        low, high = self.axis.get_view_interval()
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return the ticks between two limits."""
        subs = (1.0,) if vmax > FEW_POWERS * vmin else (1.0, 2.0, 5.0)
        return [float(tick) for tick in LogLocator(subs=subs, numticks=9).tick_values(vmin, vmax)]


def size_axis(axes: Axes, values: np.ndarray) -> None:
    """Set up a vertical axis of positive sizes: logarithmic if they span more than a factor of 3, else from 0."""
    known = values[np.isfinite(values) & (values > 0)]
    span = known.max() / known.min() if len(known) else 1.0
    if span <= 3:
        axes.set_ylim(0, 1.25 * known.max() if len(known) else 1)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(_SizeLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_power))


SAMPLES = 200
"""Places at which curves are compared, evenly spaced on the log axis of iterations."""
SAME = 0.01
"""Curves are the same line if they differ by at most this fraction of the height of their panel."""


def coinciding(curves: Sequence[np.ndarray], heights: tuple[float, float], log: bool = False) -> list[list[int]]:
    """Return the groups of curves that are the same line to the eye, as indices. Each group has at least two.

    Args:
        curves: values at iterations 1, 2, ...; NaN where there is none. A single value is a level.
        heights: the limits of the vertical axis.
        log: whether the vertical axis is logarithmic.
    """
    longest = max(map(len, curves), default=1)
    places = np.unique(np.geomspace(1, longest, SAMPLES).round().astype(int)) - 1
    low, high = np.log(heights) if log else heights
    drawn = [_sampled(np.log(curve) if log else curve, places) for curve in curves]
    groups: list[list[int]] = []
    for place, one in enumerate(drawn):
        for group in groups:
            if _same(drawn[group[0]], one, SAME * (high - low)):
                group.append(place)
                break
        else:
            groups.append([place])
    return [group for group in groups if len(group) > 1]


def _sampled(curve: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return a curve at some places, NaN beyond its end; a single value is the same everywhere."""
    if len(curve) == 1:
        return np.full(len(places), curve[0])
    return np.where(places < len(curve), curve[np.minimum(places, len(curve) - 1)], np.nan)


def _same(first: np.ndarray, second: np.ndarray, tolerance: float) -> bool:
    unequal = np.isnan(first) != np.isnan(second)
    return not unequal.any() and bool(np.nanmax(np.abs(first - second), initial=0.0) <= tolerance)


def layered(count: int, thin: float, thick: float) -> list[float]:
    """Return sizes of lines or marks that may lie on one another, the lowest first and thickest, so that each is seen."""
    return np.linspace(thick, thin, count).tolist() if count > 1 else [thin]


def percent_axis(axes: Axes, top: int = 100) -> None:
    """Set up a vertical axis of percentages, with room for lines at both ends.

    Args:
        axes: the axes.
        top: the highest percentage, a multiple of 20.
    """
    axes.set_ylim(-0.03 * top, 1.03 * top)
    axes.set_yticks(range(0, top + 1, 20 if top > 40 else 10))
