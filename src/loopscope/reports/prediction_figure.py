"""The figure of a population: what was forecast of each model against what it did."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from loopscope.files import write_bytes
from loopscope.reports.charts import COLOURS, SHADE, Panel, draw_panels, percent_axis, png, tidy
from loopscope.reports.looks import MARKS, add_legend
from loopscope.studies.outcomes import HOLDS, Fate
from loopscope.studies.prediction import Analysis

FATE_COLOURS = {Fate.EXTRAPOLATES: COLOURS[0], Fate.HOLDS: COLOURS[2], Fate.LOSES: COLOURS[1]}


def write_figure(path: Path, analysis: Analysis) -> None:
    """Draw every model that solves its task, and of which a forecast could be made, as a PNG file."""
    placed = [one for one in analysis.placed if one.forecast is not None and one.kept is not None]
    tasks = list(dict.fromkeys(one.task for one in placed))
    marks = dict(zip(tasks, MARKS, strict=False))

    def draw(axes: Axes) -> None:
        for one in placed:
            assert one.forecast is not None
            assert one.kept is not None
            point = [100 * one.forecast], [100 * one.kept]
            axes.plot(*point, marks[one.task], c=FATE_COLOURS[one.fate], ms=6, alpha=0.75, clip_on=False)
        axes.axhline(100 * HOLDS, c=SHADE, lw=1)
        axes.set_xlim(-3, 103)
        percent_axis(axes)
        tidy(axes, "forecast: probability of holding, %", "easy accuracy left, % of its best", f"{len(placed)} models")

    drawing, _ = draw_panels([Panel(draw, width=5.2, height=4.0)])
    fates = [fate for fate in FATE_COLOURS if any(one.fate is fate for one in placed)]
    handles = [Line2D([], [], ls="", marker="o", color=FATE_COLOURS[fate], label=fate.value) for fate in fates]
    handles += [Line2D([], [], ls="", marker=marks[task], color=SHADE, label=task) for task in tasks]
    if handles:
        add_legend(drawing, handles)
    write_bytes(path, png(drawing))
