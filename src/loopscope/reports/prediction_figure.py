"""The figures of a population: forecasts against what the models did, and the field's favourite signal likewise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from loopscope.forecast import HOLDS
from loopscope.reports.charts import (
    COLOURS,
    INK,
    SHADE,
    Panel,
    draw_panels,
    iteration_axis,
    percent_axis,
    shade_training,
    tidy,
)
from loopscope.reports.looks import MARKS, add_legend
from loopscope.studies.outcomes import Fate
from loopscope.studies.population import Member
from loopscope.studies.prediction import STANDING, Analysis, Placed

FATE_COLOURS = {
    Fate.EXTRAPOLATES: COLOURS[0],
    Fate.HOLDS: COLOURS[2],
    Fate.LOSES: COLOURS[1],
    Fate.NEVER: SHADE,
}


def figure_panels(analysis: Analysis) -> list[Panel]:
    """Return each model's forecast against the accuracy it kept, and W_state's radius against hard accuracy.

    Models that do not solve their task have no forecast, those without recall no W_state.
    """
    marks = _marks(analysis)

    def scatter(axes: Axes, points: Sequence[tuple[Placed, float, float]]) -> None:
        for one, x, y in points:
            axes.plot([x], [100 * y], marks[one.task], c=FATE_COLOURS[one.fate], ms=6, alpha=0.75, clip_on=False)
        percent_axis(axes)

    def forecasts(name: str) -> Panel:
        def draw(axes: Axes) -> None:
            points = [
                (one, 100 * forecast, one.kept)
                for one in analysis.placed
                if (forecast := one.forecasts[name]) is not None and one.kept is not None
            ]
            scatter(axes, points)
            axes.axhline(100 * HOLDS, c=SHADE, lw=1)
            axes.set_xlim(-3, 103)
            title = f"{name.capitalize()}, {len(points)} models"
            tidy(axes, "forecast: probability of holding, %", "easy accuracy left, % of its best", title)

        return Panel(draw, width=4.0, height=3.8)

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

    return [*map(forecasts, STANDING), Panel(radii, width=4.0, height=3.8)]


def curve_panels(members: Sequence[Member], hardest: bool) -> list[Panel]:
    """Return mean accuracy against iterations of one task's models, a panel for each recall, a line per normalization.

    Args:
        members: the models.
        hardest: whether on the hardest problems, rather than the easy ones.
    """
    looped = [member for member in members if member.looped and member.easy is not None]
    recalls = list(dict.fromkeys(member.settings["model"]["recall"] for member in looped))
    norms = list(dict.fromkeys(member.settings["model"]["norm"] for member in looped))
    trained = max((member.trained_iterations for member in looped), default=0)

    def panel(recall: str) -> Panel:
        def draw(axes: Axes) -> None:
            shade_training(axes, trained)
            longest = 2
            for norm, colour in zip(norms, COLOURS, strict=False):
                own = [member for member in looped if _kind(member) == (recall, norm)]
                curves = [member.hard if hardest else member.easy for member in own]
                if not own:
                    continue
                at = max((curve.iterations for curve in curves if curve is not None), key=len)
                same = [curve.accuracy for curve in curves if curve is not None and curve.iterations == at]
                axes.plot(at, 100 * np.mean(same, axis=0), c=colour, lw=1.8)
                longest = max(longest, at[-1])
            iteration_axis(axes, longest)
            percent_axis(axes)
            title = "no recall" if recall == "none" else f"{recall} recall"
            tidy(axes, "iterations", f"{'hardest' if hardest else 'easy'} problems right, %", title)

        return Panel(draw, width=4.0, height=3.0)

    return list(map(panel, recalls))


def _kind(member: Member) -> tuple[str, str]:
    return member.settings["model"]["recall"], member.settings["model"]["norm"]


def _marks(analysis: Analysis) -> dict[str, str]:
    return dict(zip(dict.fromkeys(one.task for one in analysis.placed), MARKS, strict=False))


def figure_handles(analysis: Analysis) -> list[Line2D]:
    """Return the legend of ``figure_panels``."""
    marks = _marks(analysis)
    fates = [fate for fate in FATE_COLOURS if any(one.fate is fate for one in analysis.placed)]
    handles = [Line2D([], [], ls="", marker="o", color=FATE_COLOURS[fate], label=fate.value) for fate in fates]
    return [*handles, *(Line2D([], [], ls="", marker=mark, color=INK, label=task) for task, mark in marks.items())]


def curve_handles(members: Sequence[Member]) -> list[Line2D]:
    """Return the legend of ``curve_panels``."""
    norms = dict.fromkeys(member.settings["model"]["norm"] for member in members if member.looped)
    return [Line2D([], [], lw=2, color=colour, label=norm) for norm, colour in zip(norms, COLOURS, strict=False)]


def drawing(panels: Sequence[Panel], handles: Sequence[Line2D]) -> Figure:
    """Return panels side by side with their legend below."""
    figure, _ = draw_panels(panels)
    add_legend(figure, handles)
    return figure
