"""The figure of a population: forecasts against what the models did, and the field's favourite signal likewise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from loopscope.forecasts.result import HOLDS
from loopscope.reports.kit.charts import COLOURS, INK, SHADE, Panel, percent_axis, tidy
from loopscope.reports.kit.styles import MARKS, Look
from loopscope.studies.outcomes import Fate, outcomes
from loopscope.studies.population import Member
from loopscope.studies.prediction import STANDING, Analysis
from loopscope.studies.predictors import unseen
from loopscope.studies.signals import LEAP_KEEPS, LEAP_KEPT

FATE_COLOURS = {
    Fate.EXTRAPOLATES: COLOURS[0],
    Fate.HOLDS: COLOURS[2],
    Fate.LOSES: COLOURS[1],
    Fate.NEVER: SHADE,
}
WIDTH, HEIGHT = 4.2, 3.9
KEPT = "easy accuracy left, % of its best"
Point = tuple[str, Fate, float, float]
"""A model: its task, its fate, and where it stands."""


def _marks(tasks: Sequence[str]) -> dict[str, str]:
    return dict(zip(dict.fromkeys(tasks), MARKS, strict=False))


def _scatter(axes: Axes, points: Sequence[Point], marks: dict[str, str], **style: Any) -> None:
    """Draw models, those that never learned behind all others."""
    for task, fate, x, y in points:
        colour, behind = FATE_COLOURS[fate], fate is Fate.NEVER
        shown: dict[str, Any] = {"mfc": colour, "mec": "white", "mew": 0.5, **style}
        axes.plot([x], [y], marks[task], c=colour, ms=6.5, alpha=0.8, clip_on=False, zorder=2.5 + (not behind), **shown)


def _forecasts(analysis: Analysis, name: str, marks: dict[str, str]) -> Panel:
    """Return the probability of holding by a predictor's fitted rule against what is left."""
    points = [
        (one.task, one.fate, 100 * forecast, 100 * one.kept)
        for one in analysis.placed
        if (forecast := one.forecasts[name]) is not None and one.kept is not None
    ]

    def draw(axes: Axes) -> None:
        axes.axhline(100 * HOLDS, c=SHADE, lw=1)
        _scatter(axes, points, marks)
        axes.set_xlim(-3, 103)
        percent_axis(axes)
        tidy(axes, "forecast: probability of holding, %", KEPT, f"{name.capitalize()}, {len(points)} models")

    return Panel(draw, WIDTH, HEIGHT)


def _leaps(members: Sequence[Member], marks: dict[str, str]) -> Panel:
    """Return what is forecast to be left of models that leaps were not made on, for which nothing is fitted, against what is."""
    said: dict[bool, list[Point]] = {True: [], False: []}
    for member, end in zip(members, outcomes(members), strict=True):
        leapt = member.signal(LEAP_KEPT)
        if leapt is not None and end.kept is not None and unseen(member):
            # A cycle may be right at the last iteration and wrong just before: forecast then says that it loses answers.
            swings = leapt >= HOLDS and member.signal(LEAP_KEEPS) == 0
            said[swings].append((member.task, end.fate, 100 * leapt, 100 * end.kept))

    def draw(axes: Axes) -> None:
        edge = 100 * HOLDS
        axes.axhline(edge, c=SHADE, lw=1)
        axes.axvline(edge, c=SHADE, lw=1)
        for sides, low, high in (([-3, edge], edge, 103), ([edge, 103], -3, edge)):
            axes.fill_between(sides, low, high, color=SHADE, alpha=0.18, lw=0)
        _scatter(axes, said[False], marks)
        _scatter(axes, said[True], marks, mfc="none", mec=None, mew=1.4)
        axes.set_xlim(-3, 103)
        percent_axis(axes)
        title = f"{LEAP_KEPT.capitalize()}, {sum(map(len, said.values()))} unseen models"
        tidy(axes, "forecast: accuracy left, % of the best on the way", KEPT, title)

    return Panel(draw, WIDTH, HEIGHT)


def _radii(analysis: Analysis, marks: dict[str, str]) -> Panel:
    points = [
        (one.task, one.fate, one.state_radius, 100 * one.hard)
        for one in analysis.placed
        if one.state_radius is not None and one.hard is not None
    ]

    def draw(axes: Axes) -> None:
        axes.axvline(1, c=SHADE, lw=1)
        _scatter(axes, points, marks)
        percent_axis(axes)
        title = f"W_state, {len(points)} models"
        tidy(axes, "spectral radius of W_state", "hardest right at the last iteration, %", title)

    return Panel(draw, WIDTH, HEIGHT)


def figure_panels(analysis: Analysis, members: Sequence[Member]) -> list[Panel]:
    """Return forecasts of each model against the accuracy it kept, and W_state's radius against hard accuracy.

    Fitted rules stand for models that solve their task alone; those without recall have no W_state.
    """
    marks = _marks([one.task for one in analysis.placed])
    looped = [member for member in members if member.looped]
    fitted = [_forecasts(analysis, name, marks) for name in STANDING if name != LEAP_KEPT]
    return [*fitted, _leaps(looped, marks), _radii(analysis, marks)]


def figure_looks(analysis: Analysis) -> list[Look]:
    """Return the legend of ``figure_panels``: fates by their colours, tasks by their marks."""
    seen = {one.fate for one in analysis.placed}
    fates = [Look(fate.value, colour, "", "o") for fate, colour in FATE_COLOURS.items() if fate in seen]
    marks = _marks([one.task for one in analysis.placed])
    return [*fates, *(Look(task, INK, "", mark) for task, mark in marks.items())]
