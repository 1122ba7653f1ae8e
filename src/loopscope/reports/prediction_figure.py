"""The figures of a population: forecasts against what the models did, and the field's favourite signal likewise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from loopscope.files import write_bytes
from loopscope.reports.charts import COLOURS, INK, SHADE, Panel, draw_panels, percent_axis, png, tidy
from loopscope.reports.looks import MARKS, add_legend
from loopscope.studies.outcomes import HOLDS, Fate
from loopscope.studies.prediction import Analysis, Placed

FATE_COLOURS = {
    Fate.EXTRAPOLATES: COLOURS[0],
    Fate.HOLDS: COLOURS[2],
    Fate.LOSES: COLOURS[1],
    Fate.NEVER: SHADE,
}


def write_figure(path: Path, analysis: Analysis) -> None:
    """Draw, as a PNG file, each model's forecast against the accuracy it kept, and W_state's radius against hard accuracy.

    Models that do not solve their task have no forecast, those without recall no W_state.
    """
    tasks = list(dict.fromkeys(one.task for one in analysis.placed))
    marks = dict(zip(tasks, MARKS, strict=False))

    def scatter(axes: Axes, points: Sequence[tuple[Placed, float, float]]) -> None:
        for one, x, y in points:
            axes.plot([x], [100 * y], marks[one.task], c=FATE_COLOURS[one.fate], ms=6, alpha=0.75, clip_on=False)
        percent_axis(axes)

    def forecasts(axes: Axes) -> None:
        points = [
            (one, 100 * one.forecast, one.kept)
            for one in analysis.placed
            if one.forecast is not None and one.kept is not None
        ]
        scatter(axes, points)
        axes.axhline(100 * HOLDS, c=SHADE, lw=1)
        axes.set_xlim(-3, 103)
        title = f"All three axes, {len(points)} models"
        tidy(axes, "forecast: probability of holding, %", "easy accuracy left, % of its best", title)

    def radii(axes: Axes) -> None:
        points = [
            (one, one.state_radius, one.hard)
            for one in analysis.placed
            if one.state_radius is not None and one.hard is not None
        ]
        scatter(axes, points)
        axes.axvline(1, c=SHADE, lw=1)
        title = f"W_state, {len(points)} models"
        tidy(axes, "spectral radius of W_state", "hardest right at the last iteration, %", title)

    drawing, _ = draw_panels([Panel(forecasts, height=4.0), Panel(radii, height=4.0)])
    fates = [fate for fate in FATE_COLOURS if any(one.fate is fate for one in analysis.placed)]
    handles = [Line2D([], [], ls="", marker="o", color=FATE_COLOURS[fate], label=fate.value) for fate in fates]
    handles += [Line2D([], [], ls="", marker=marks[task], color=INK, label=task) for task in tasks]
    add_legend(drawing, handles)
    write_bytes(path, png(drawing))
