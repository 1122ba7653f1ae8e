"""The figure of a watched training: the loss, the three axes and the forecasts, over one axis of training steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from loopscope.forecasts.result import Outlook
from loopscope.reports.kit.charts import COLOURS, SHADE, Panel, numbers, percent_axis, size_axis, tidy
from loopscope.training.watch.record import WatchRecord

WIDTH, HEIGHT = 9.0, 1.9
"""Size of a panel in inches."""
OUTLOOKS = {Outlook.KEEPS: (COLOURS[2], "o"), Outlook.CANNOT_TELL: (SHADE, "s"), Outlook.COLLAPSES: (COLOURS[1], "X")}
"""Colour and marker of each answer of a forecast."""


@dataclass(frozen=True)
class History:
    """What was logged of a training.

    Args:
        metrics: rows of metrics.jsonl, each with step and loss.
        records: records of the watch.
    """

    metrics: Sequence[Mapping[str, Any]]
    records: Sequence[WatchRecord]

    @property
    def steps(self) -> np.ndarray:
        """The steps of the records."""
        return np.array([record.step for record in self.records], dtype=float)

    @property
    def last(self) -> int:
        """The last step of which there is anything."""
        return max([row["step"] for row in self.metrics[-1:]] + [record.step for record in self.records[-1:]])

    def of_records(self, name: str) -> np.ndarray:
        """Return a number of every record, NaN where it is not known."""
        return numbers([getattr(record, name) for record in self.records])

    def of_metrics(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and the values of the rows that hold a number."""
        rows = [row for row in self.metrics if row.get(name) is not None]
        return np.array([row["step"] for row in rows], dtype=float), numbers([row[name] for row in rows])


def history_panels(history: History) -> list[Panel]:
    """Return the panels of a training, from the loss down to the forecasts."""
    draws: list[Callable[[Axes, History], None]] = [_loss, _residual, _radius, _fractions, _forecasts]

    def panel(draw: Callable[[Axes, History], None], lowest: bool) -> Panel:
        def drawn(axes: Axes) -> None:
            draw(axes, history)
            _mark_flag(axes, history)
            axes.set_xlim(0, history.last * 1.01)
            if lowest:
                axes.set_xlabel("training steps")
            else:
                axes.tick_params(labelbottom=False)

        return Panel(drawn, WIDTH, HEIGHT)

    return [panel(draw, draw is draws[-1]) for draw in draws]


def first_flag(records: Sequence[WatchRecord]) -> WatchRecord | None:
    """Return the first record at which the flag had risen, or None."""
    return next((record for record in records if record.flagged), None)


def _mark_flag(axes: Axes, history: History) -> None:
    flag = first_flag(history.records)
    if flag is not None:
        axes.axvline(flag.step, color=OUTLOOKS[Outlook.COLLAPSES][0], lw=1.2, ls="--")


def _loss(axes: Axes, history: History) -> None:
    steps, loss = history.of_metrics("loss")
    axes.plot(steps, loss, c=COLOURS[0], lw=1.2)
    size_axis(axes, loss)
    tidy(axes, "", "loss", "Loss")


def _residual(axes: Axes, history: History) -> None:
    residual = history.of_records("residual")
    axes.plot(history.steps, np.where(residual > 0, residual, np.nan), c=COLOURS[0], marker="o", ms=4, lw=1.4)
    size_axis(axes, residual)
    trained = history.records[-1].trained_iterations if history.records else 0
    tidy(axes, "", "residual", f"Reachability: relative residual after the {trained} iterations of training")


def _radius(axes: Axes, history: History) -> None:
    radius, error = history.of_records("radius"), np.nan_to_num(history.of_records("radius_error"))
    steps, of_weights = history.of_metrics("state_radius")
    axes.errorbar(history.steps, radius, error, c=COLOURS[0], marker="o", ms=4, lw=1.4, label="Jacobian of the step")
    if len(steps):
        axes.plot(steps, of_weights, c=COLOURS[4], lw=1.4, ls="-.", label="weights of the state (W_state)")
    axes.axhline(1, c=SHADE, lw=1.2)
    axes.margins(y=0.25)
    axes.legend(loc="best", ncols=2)
    tidy(axes, "", "spectral radius", "Geometry: spectral radius")


def _fractions(axes: Axes, history: History) -> None:
    moved = numbers([None if record.swaps is None else record.swaps.moved for record in history.records])
    for values, colour, mark, label in (
        (history.of_records("accuracy"), COLOURS[0], "o", "inputs right"),
        (history.of_records("arrived"), COLOURS[4], "^", "orbits arrived"),
        (moved, COLOURS[2], "D", "swapped orbits that moved"),
    ):
        if np.isfinite(values).any():
            axes.plot(history.steps, 100 * values, c=colour, marker=mark, ms=4, lw=1.4, label=label)
    percent_axis(axes)
    if axes.get_lines():
        axes.legend(loc="best", ncols=3)
    tidy(axes, "", "%", "Accuracy, arrival and input-dependence")


def _forecasts(axes: Axes, history: History) -> None:
    horizons = sorted({one.iterations for record in history.records for one in record.forecasts})
    for outlook, (colour, mark) in OUTLOOKS.items():
        found = [
            (record.step, horizons.index(one.iterations))
            for record in history.records
            for one in record.forecasts
            if one.outlook is outlook
        ]
        steps, rows = zip(*found, strict=True) if found else ((), ())
        axes.plot(steps, rows, mark, c=colour, ms=7, mec="none", label=outlook.value)
    axes.set_yticks(range(len(horizons)), [f"to {horizon}" for horizon in horizons])
    axes.set_ylim(-0.6, max(len(horizons), 1) + 0.3)
    axes.legend(loc="upper left", ncols=3)
    tidy(axes, "", "iterations", "Forecast: are answers kept?")
