"""Scatter plots of a population: forecasts, and the spectral radius of W_state, against what the models did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from experiments.prediction.analysis import FEATURED, Analysis
from experiments.prediction.analysis.forecasts import keeps_of
from experiments.prediction.analysis.outcomes import RETAINED, Outcome, results_of
from experiments.prediction.population import Member
from experiments.prediction.signals import FORECAST, FORECAST_KEPT
from loopscope.reports.kit.charts import COLOURS, INK, SHADE, Panel, percent_axis, tidy
from loopscope.reports.kit.styles import MARKS, Style

OUTCOME_COLOURS = {
    Outcome.EXTRAPOLATES: COLOURS[0],
    Outcome.RETAINS: COLOURS[2],
    Outcome.DEGRADES: COLOURS[1],
    Outcome.NOT_LEARNED: SHADE,
}
WIDTH, HEIGHT = 4.8, 3.9
LEFT = "easy accuracy left, % of its best"
Place = tuple[str, Outcome, float, float]
"""Task and outcome of a model, and its coordinates."""


def _marks(tasks: Sequence[str]) -> dict[str, str]:
    return dict(zip(dict.fromkeys(tasks), MARKS, strict=False))


def _scatter(axes: Axes, points: Sequence[Place], marks: dict[str, str], **style: Any) -> None:
    """Draw models, with those that did not learn their task behind all others."""
    for task, outcome, x, y in points:
        colour, behind = OUTCOME_COLOURS[outcome], outcome is Outcome.NOT_LEARNED
        shown: dict[str, Any] = {"mfc": colour, "mec": "white", "mew": 0.5, **style}
        axes.plot([x], [y], marks[task], c=colour, ms=6.5, alpha=0.8, clip_on=False, zorder=2.5 + (not behind), **shown)


def _forecasts(analysis: Analysis, name: str, marks: dict[str, str]) -> Panel:
    """Return the probability of retained accuracy, by a predictor's fitted rule, against the accuracy left."""
    points = [
        (one.task, one.outcome, 100 * forecast, 100 * one.retained)
        for one in analysis.points
        if (forecast := one.forecasts[name]) is not None and one.retained is not None
    ]

    def draw(axes: Axes) -> None:
        axes.axhline(100 * RETAINED, c=SHADE, lw=1)
        _scatter(axes, points, marks)
        axes.set_xlim(-3, 103)
        percent_axis(axes)
        tidy(axes, "forecast: probability of retained accuracy, %", LEFT, f"{name.capitalize()}, {len(points)} models")

    return Panel(draw, WIDTH, HEIGHT)


def _forecast(members: Sequence[Member], marks: dict[str, str]) -> Panel:
    """Return the accuracy that the forecast expects to be left, for which nothing is fitted, against the accuracy left.

    Undecided models are hollow. Marks have a dark edge where the forecast decides against what is left at its last iteration, as
    for a cycle that is right there and wrong just before.
    """
    by_place: dict[bool | None, list[Place]] = {True: [], False: [], None: []}
    for member, result in zip(members, results_of(members), strict=True):
        left, keeps = member.signal(FORECAST_KEPT), keeps_of(member)
        if left is not None and result.retained is not None:
            as_placed = None if keeps is None else keeps == (left >= RETAINED)
            by_place[as_placed].append((member.task, result.outcome, 100 * left, 100 * result.retained))

    def draw(axes: Axes) -> None:
        edge = 100 * RETAINED
        axes.axhline(edge, c=SHADE, lw=1)
        axes.axvline(edge, c=SHADE, lw=1)
        for sides, low, high in (([-3, edge], edge, 103), ([edge, 103], -3, edge)):
            axes.fill_between(sides, low, high, color=SHADE, alpha=0.18, lw=0)
        _scatter(axes, by_place[True], marks)
        _scatter(axes, by_place[False], marks, mec=INK, mew=1.4)
        _scatter(axes, by_place[None], marks, mfc="none", mec=None, mew=1.4)
        axes.set_xlim(-3, 103)
        percent_axis(axes)
        count, undecided = sum(map(len, by_place.values())), len(by_place[None])
        title = f"{FORECAST.capitalize()}, {count} models, {undecided} undecided"
        tidy(axes, "forecast: accuracy left, % of the best on the way", LEFT, title)

    return Panel(draw, WIDTH, HEIGHT)


def _radii(analysis: Analysis, marks: dict[str, str]) -> Panel:
    points = [
        (one.task, one.outcome, one.state_radius, 100 * one.hard)
        for one in analysis.points
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
    """Return forecasts against the accuracy that models retained, and the radius of W_state against hard accuracy.

    Fitted rules are shown for models that solve their task. Models without recall have no W_state.
    """
    marks = _marks([one.task for one in analysis.points])
    looped = [member for member in members if member.looped]
    fitted = [_forecasts(analysis, name, marks) for name in FEATURED if name != FORECAST_KEPT]
    return [*fitted, _forecast(looped, marks), _radii(analysis, marks)]


def figure_styles(analysis: Analysis) -> list[Style]:
    """Return the legend of ``figure_panels``: outcomes by colour, tasks by mark."""
    seen = {one.outcome for one in analysis.points}
    outcomes = [Style(one.value, colour, "", "o") for one, colour in OUTCOME_COLOURS.items() if one in seen]
    marks = _marks([one.task for one in analysis.points])
    return [*outcomes, *(Style(task, INK, "", mark) for task, mark in marks.items())]
