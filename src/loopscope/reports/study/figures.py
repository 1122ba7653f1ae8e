"""The figures of a study: accuracy, residual and norm against iterations, spectral radius against extrapolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from loopscope.reports.kit.charts import (
    SHADE,
    Panel,
    iteration_axis,
    numbers,
    percent_axis,
    shade_training,
    size_axis,
    tidy,
)
from loopscope.reports.kit.styles import Look
from loopscope.reports.study.table import at_fixed_points, median_radius, split_names
from loopscope.stability.results import Numbers
from loopscope.studies import Record


def by_look(curves: Mapping[str, np.ndarray], looks: Mapping[str, Look]) -> dict[Look, list[np.ndarray]]:
    """Group the curves of runs by configuration, in order."""
    groups: dict[Look, list[np.ndarray]] = {}
    for name, curve in curves.items():
        groups.setdefault(looks[name], []).append(curve)
    return groups


def middle(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Return the median over seeds at each iteration that all of them ran."""
    shortest = min(map(len, curves))
    # Not nanmedian: with one seed unknown, the median of the others would be a different quantity.
    return np.median(np.stack([curve[:shortest] for curve in curves]), axis=0)


def _draw_curves(axes: Axes, curves: Mapping[str, np.ndarray], looks: Mapping[str, Look]) -> int:
    """Draw each seed as a thin line and the median of each configuration as a thick one. Return the longest length."""
    longest = max((len(curve) for curve in curves.values()), default=1)
    for look, group in by_look(curves, looks).items():
        if len(group) > 1:
            for curve in group:
                axes.plot(np.arange(1, len(curve) + 1), curve, lw=0.9, alpha=0.6, **look.line)
        curve = middle(group)
        if len(curve) == 1:  # a model of fixed depth has a single pass: draw it as a level
            axes.axhline(curve[0], lw=1.8, **look.line)
        else:
            axes.plot(np.arange(1, len(curve) + 1), curve, lw=2.1, **look.line)
    iteration_axis(axes, longest)
    return longest


def accuracy_curves(records: Sequence[Record], split: str) -> dict[str, np.ndarray]:
    """Return the accuracy of each run on a split after every iteration, in percent."""
    evaluated = {record.run: (record.evaluation or {}).get(split) for record in records}
    return {run: 100 * numbers(curve["answer_accuracy"]) for run, curve in evaluated.items() if curve is not None}


def accuracy_panels(records: Sequence[Record], looks: Mapping[str, Look], trained: int) -> list[Panel]:
    """Return accuracy against iterations, one panel per split."""

    def panel(split: str) -> Panel:
        def draw(axes: Axes) -> None:
            _draw_curves(axes, accuracy_curves(records, split), looks)
            shade_training(axes, trained)
            percent_axis(axes)
            tidy(axes, "iterations", "answers right, %", split)

        return Panel(draw, width=3.8, height=3.0)

    return [panel(split) for split in split_names(records)]


def orbit_panels(records: Sequence[Record], looks: Mapping[str, Look], trained: int) -> list[Panel]:
    """Return the median residual and the median state norm against iterations."""

    def panel(name: Literal["residual", "norm"], title: str) -> Panel:
        def draw(axes: Axes) -> None:
            curves = {record.run: _median_curve(rows) for record in records if (rows := _quantiles(record, name))}
            _draw_curves(axes, curves, looks)
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


def radius_panel(records: Sequence[Record], looks: Mapping[str, Look]) -> Panel:
    """Return the spectral radius against the last accuracy on the hardest split, one point per run.

    A point is open if the state had not arrived at a fixed point.
    """
    hardest = split_names(records)[-1]

    def draw(axes: Axes) -> None:
        for record in radius_records(records):
            look, curve = looks[record.run], (record.evaluation or {}).get(hardest)
            if curve is not None:
                face = look.colour if at_fixed_points(record.exam) else "none"
                point = numbers([median_radius(record.exam)]), [100 * curve["last"]]
                axes.plot(*point, look.mark, c=look.colour, mfc=face, ms=9, mew=1.6, alpha=0.85, clip_on=False)
        axes.axvline(1, c=SHADE, lw=1.2)
        percent_axis(axes)
        tidy(axes, "spectral radius of the Jacobian, median", f"right at the last iteration, {hardest}, %")

    return Panel(draw, width=5.2, height=3.8)
