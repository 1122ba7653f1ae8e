"""Output of ``loopscope trust``: how well signals separate right answers from wrong ones, as tables and a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopscope.answers.calibration import cross_checked
from loopscope.answers.trust import SIGNALS, joined, signals_from
from loopscope.metrics import RiskCurve, risk_curve
from loopscope.reports.kit.charts import COLOURS, INK, SHADE, Panel, draw_panels, layered, tidy
from loopscope.reports.kit.formats import DASH, number, percent
from loopscope.reports.kit.sheet import Sheet
from loopscope.reports.kit.styles import DASHES, Style, add_legend, line_handle

STYLES = {
    name: Style(name, COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], "o")
    for place, name in enumerate(SIGNALS)
}
BEST = Style("perfect order", INK, "1 2", "o")
RANDOM = Style("random order", SHADE, "6 2.5", "o")
RESIDUALS = (1e-5, 1e-4, 1e-3, 1e-2)
DOUBTS = (1e-3, 1e-2, 0.1, 0.5)
"""Edges of the bands of one minus the confidence; those of residuals are in ``RESIDUALS``."""
PANEL = {"width": 3.1, "height": 2.9}
WIDTHS = (1.3, 4.0)
"""Widths of the uppermost and of the lowest line."""

Splits = Mapping[str, Mapping[str, Any]]
"""The content of ``trust.json`` under splits."""


def _rate(group: Mapping[str, int]) -> str:
    return percent(group["right"] / group["examples"] if group["examples"] else None)


def arrival_sheet(title: str, iterations: int, splits: Splits) -> Sheet:
    """Return a table with one row per split: how many examples arrived, and how often these and the others are right."""
    rows = [
        [
            name,
            str(split["all"]["examples"]),
            _rate(split["all"]),
            str(split["arrived"]["examples"]),
            _rate(split["arrived"]),
            str(split["others"]["examples"]),
            _rate(split["others"]),
        ]
        for name, split in splits.items()
    ]
    return Sheet(
        title,
        ("split", "examples", "right %", "arrived", "right %", "others", "right %"),
        rows,
        f"after {iterations} iterations; arrived: residual, contraction and estimated error say so",
    )


def signals_sheet(splits: Splits) -> Sheet:
    """Return a table with one row per split and signal: AUC with its interval, and area under risk against coverage."""
    rows, ends = [], []
    for name, split in splits.items():
        for place, (signal, found) in enumerate(split["signals"].items()):
            interval = DASH if found["low"] is None else f"{found['low']:.3f}-{found['high']:.3f}"
            rows.append(
                [name if place == 0 else "", signal, number(found["auc"], 3), interval, number(found["area"], 3)]
            )
        rows.append(["", "perfect", "1.000", "", number(split["perfect_area"], 3)])
        rows.append(["", "random", "0.500", "", number(split["random_area"], 3)])
        ends.append(len(rows) - 1)
    return Sheet(
        "right or wrong?",
        ("split", "signal", "AUC", "95%", "risk area"),
        rows,
        "AUC: how often a right answer is trusted more than a wrong one; risk area: mean risk over all coverages",
        ends,
    )


def _within(low: float, high: float) -> str:
    return f"above {low:g}" if high == math.inf else f"to {high:g}"


def bands_sheet(title: str, kind: str, edges: Sequence[float], splits: Splits) -> Sheet:
    """Return a table with one row per split: the accuracy and number of examples in each band of a signal.

    Args:
        title: title of the table.
        kind: field of ``AnswerSignals`` that is divided into bands.
        edges: edges of the bands, ascending. Each band includes its upper edge.
        splits: the measurements.
    """
    bounds = [-math.inf, *edges, math.inf]
    rows = []
    for name, split in splits.items():
        evidence = signals_from(split["evidence"])
        places = np.digitize(getattr(evidence, kind), edges, right=True)
        groups = [evidence.right[places == place] for place in range(len(bounds) - 1)]
        rows.append([name, *(f"{percent(group.mean())} of {len(group)}" if len(group) else DASH for group in groups)])
    columns = ["split", *(_within(*pair) for pair in pairwise(bounds))]
    return Sheet(title, columns, rows, "% right, and of how many examples")


def reliability_sheet(splits: Splits) -> Sheet:
    """Return the chances that ``loopscope solve`` would state against what came true, all splits together.

    Each fifth of the answers is predicted by the other four.
    """
    found = cross_checked(joined([signals_from(split["evidence"]) for split in splits.values()]))
    rows = [[str(one.examples), percent(one.predicted), percent(one.right)] for one in found.bins]
    note = f"expected calibration error {percent(found.error)} points" if rows else "too few answers to calibrate"
    return Sheet("chance that an answer is right", ("answers", "stated %", "right %"), rows, note)


def trust_sheets(title: str, iterations: int, splits: Splits) -> list[Sheet]:
    """Return all tables of the measurements."""
    return [
        arrival_sheet(title, iterations, splits),
        bands_sheet("by relative residual", "residual", RESIDUALS, splits),
        bands_sheet("by one minus the softmax confidence", "unsure", DOUBTS, splits),
        signals_sheet(splits),
        reliability_sheet(splits),
    ]


def _line(axes: Axes, curve: RiskCurve, style: Style, width: float) -> None:
    # The first point extends to the left edge, because a part of its group of ties cannot be covered.
    coverage, risk = 100 * np.concatenate([[0.0], curve.coverage]), 100 * np.concatenate([curve.risk[:1], curve.risk])
    axes.plot(coverage, risk, drawstyle="steps-pre", lw=width, **style.line)


def _drawing(name: str, split: Mapping[str, Any], first: bool) -> Callable[[Axes], None]:
    evidence = signals_from(split["evidence"])
    order = np.arange(len(evidence), dtype=np.float64)

    def draw(axes: Axes) -> None:
        tidy(axes, "% covered", "% wrong of these" if first else "", name)
        error = 100 * split["random_area"]
        axes.plot([0, 100], [error, error], lw=1, **RANDOM.line)
        # Lines below others are thicker, so that they are seen where lines coincide.
        thickest, *widths = layered(1 + len(SIGNALS), *WIDTHS)
        _line(axes, risk_curve(order, np.sort(evidence.right)[::-1]), BEST, thickest)
        for (signal, doubt), width in zip(SIGNALS.items(), widths, strict=True):
            _line(axes, risk_curve(doubt(evidence), evidence.right), STYLES[signal], width)
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))

    return draw


def risk_figure(splits: Splits) -> Figure:
    """Return a figure of risk against coverage, with one panel per split and one line per signal."""
    drawings = [_drawing(name, split, place == 0) for place, (name, split) in enumerate(splits.items())]
    figure, _ = draw_panels([Panel(draw, **PANEL) for draw in drawings])
    add_legend(figure, [line_handle(style) for style in (*STYLES.values(), BEST, RANDOM)])
    return figure
