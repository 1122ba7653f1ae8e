"""The figures of a study: accuracy, residual and norm against iterations, spectral radius against extrapolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from loopscope.reports.kit.charts import (
    SHADE,
    Panel,
    coinciding,
    iteration_axis,
    layered,
    numbers,
    percent_axis,
    shade_training,
    size_axis,
    tidy,
)
from loopscope.reports.kit.styles import Style
from loopscope.reports.study.table import at_fixed_points, median_radius, split_names
from loopscope.stability.results import Numbers
from loopscope.studies import Record

WIDTHS = (1.5, 3.4)
"""Widths of the uppermost and of the lowest line of a panel."""
SIZES = (9.0, 17.0)
"""Sizes of the uppermost and of the lowest of several marks in one place."""
NEAR = 0.02
"""Marks within this fraction of the panel's sides are in one place."""


def by_style(curves: Mapping[str, np.ndarray], styles: Mapping[str, Style]) -> dict[Style, list[np.ndarray]]:
    """Group the curves of runs by configuration, in order."""
    groups: dict[Style, list[np.ndarray]] = {}
    for name, curve in curves.items():
        groups.setdefault(styles[name], []).append(curve)
    return groups


def middle(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Return the median over seeds at each iteration that all of them ran."""
    shortest = min(map(len, curves))
    # Not nanmedian: with one seed unknown, the median of the others would be a different quantity.
    return np.median(np.stack([curve[:shortest] for curve in curves]), axis=0)


def _draw_curves(axes: Axes, curves: Mapping[str, np.ndarray], styles: Mapping[str, Style]) -> int:
    """Draw each seed as a thin line and the median of each configuration as a thick one. Return the longest length.

    Lines below others are thicker, so that they are seen where lines coincide.
    """
    longest = max((len(curve) for curve in curves.values()), default=1)
    groups = by_style(curves, styles)
    for (style, group), width in zip(groups.items(), layered(len(groups), *WIDTHS), strict=True):
        if len(group) > 1:
            for curve in group:
                axes.plot(np.arange(1, len(curve) + 1), curve, lw=0.9, alpha=0.6, **style.line)
        curve = middle(group)
        if len(curve) == 1:  # a model of fixed depth has a single pass: draw it as a level
            curve = np.full(max(longest, 2), curve[0])
        axes.plot(np.arange(1, len(curve) + 1), curve, lw=width, label=style.label, **style.line)
    iteration_axis(axes, longest)
    return longest


def same_lines(panels: Sequence[Axes]) -> str:
    """Return which configurations are drawn as the same line, in words; empty where all lines can be told apart.

    Args:
        panels: axes of accuracy, residual or norm against iterations, as drawn.
    """
    said = []
    for axes in panels:
        lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
        curves = [np.asarray(line.get_ydata(), dtype=float) for line in lines]
        for group in coinciding(curves, axes.get_ylim(), axes.get_yscale() == "log"):
            named = ", ".join(str(lines[place].get_label()) for place in group)
            said.append(f"{axes.get_title(loc='left')}: {named}")
    return f" Drawn as the same line: {'; '.join(said)}." if said else ""


def accuracy_curves(records: Sequence[Record], split: str) -> dict[str, np.ndarray]:
    """Return the accuracy of each run on a split after every iteration, in percent."""
    evaluated = {record.run: (record.evaluation or {}).get(split) for record in records}
    return {run: 100 * numbers(curve["answer_accuracy"]) for run, curve in evaluated.items() if curve is not None}


def accuracy_panels(records: Sequence[Record], styles: Mapping[str, Style], trained: int) -> list[Panel]:
    """Return accuracy against iterations, one panel per split."""

    def panel(split: str) -> Panel:
        def draw(axes: Axes) -> None:
            _draw_curves(axes, accuracy_curves(records, split), styles)
            shade_training(axes, trained)
            percent_axis(axes)
            tidy(axes, "iterations", "answers right, %", split)

        return Panel(draw, width=3.8, height=3.0)

    return [panel(split) for split in split_names(records)]


def orbit_panels(records: Sequence[Record], styles: Mapping[str, Style], trained: int) -> list[Panel]:
    """Return the median residual and the median state norm against iterations."""

    def panel(name: Literal["residual", "norm"], title: str) -> Panel:
        def draw(axes: Axes) -> None:
            curves = {record.run: _median_curve(rows) for record in records if (rows := _quantiles(record, name))}
            _draw_curves(axes, curves, styles)
            size_axis(axes, np.concatenate(list(curves.values())))
            shade_training(axes, trained)
            tidy(axes, "iterations", f"{title}, median", title)

        return Panel(draw)

    return [panel("residual", "relative residual"), panel("norm", "norm of the state")]


def _quantiles(record: Record, name: Literal["residual", "norm"]) -> list[Numbers] | None:
    if record.exam is None:
        return None
    return record.exam.curves.residual if name == "residual" else record.exam.curves.norm


def _median_curve(quantiles: list[Numbers]) -> np.ndarray:
    """Return the median over inputs. A zero, which a log axis cannot show, becomes a gap."""
    values = numbers(quantiles[1])
    return np.where(values > 0, values, np.nan)


def radius_records(records: Sequence[Record]) -> list[Record]:
    """Return the records with both an accuracy and a spectral radius."""
    return [record for record in records if record.evaluation and median_radius(record.exam) is not None]


def radius_panel(records: Sequence[Record], styles: Mapping[str, Style]) -> Panel:
    """Return the spectral radius against the last accuracy on the hardest split, one point per run.

    A point is open if the state had not arrived at a fixed point.
    """
    hardest = split_names(records)[-1]

    def draw(axes: Axes) -> None:
        shown = [record for record in radius_records(records) if hardest in (record.evaluation or {})]
        points = [_point(record, hardest) for record in shown]
        for record, point, size in zip(shown, points, _mark_sizes(points), strict=True):
            style = styles[record.run]
            face = style.colour if at_fixed_points(record.exam) else "none"
            axes.plot(
                *point,
                style.mark,
                c=style.colour,
                mfc=face,
                ms=size,
                mew=1.6,
                alpha=0.85,
                clip_on=False,
                label=style.label,
            )
        axes.axvline(1, c=SHADE, lw=1.2)
        percent_axis(axes)
        tidy(axes, "spectral radius of the Jacobian, median", f"right at the last iteration, {hardest}, %")

    return Panel(draw, width=5.2, height=3.8)


def _point(record: Record, split: str) -> tuple[float, float]:
    """Return a run's median spectral radius, and its last accuracy on a split in percent."""
    return median_radius(record.exam) or 0.0, 100 * (record.evaluation or {})[split]["last"]


def _mark_sizes(points: Sequence[tuple[float, float]]) -> list[float]:
    """Return the size of each mark. Of several in one place, those drawn first are larger and stay visible."""
    sides = np.array([max(np.ptp([radius for radius, _ in points]), 0.1), 100.0]) if points else np.ones(2)
    places: list[list[int]] = []
    for index, point in enumerate(points):
        near = (place for place in places if (np.abs(np.subtract(points[place[0]], point)) <= NEAR * sides).all())
        place = next(near, None)
        if place is None:
            places.append([index])
        else:
            place.append(index)
    sizes = [0.0] * len(points)
    for place in places:
        for index, size in zip(place, layered(len(place), *SIZES), strict=True):
            sizes[index] = size
    return sizes
