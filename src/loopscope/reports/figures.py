"""Figures of studies and examinations, by matplotlib; the interactive one by plotly.

Colours are those of Okabe and Ito, which colour-blind people can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from loopscope.reports.rows import at_fixed_points, median_radius, split_names
from loopscope.studies.ledger import Record

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6BB1")
DASHES = ("-", "--", ":", "-.")
PLOTLY_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
SHADE = "#8a94a6"
UNDRAWN = ("training.seed", "data.seed", "model.architecture", "model.blocks")
"""Varied settings that have no colour or dash of their own."""


@dataclass(frozen=True)
class Look:
    """How a configuration is drawn, the same in all figures.

    Args:
        label: what it is, without the seed.
        colour: by the first varied setting.
        dash: by the second.
    """

    label: str
    colour: str
    dash: str


def _setting(record: Record, key: str) -> Any:
    section, _, name = key.partition(".")
    return record.settings.get(section, {}).get(name)


def looks(records: Sequence[Record], varied: Sequence[str]) -> dict[str, Look]:
    """Return how each run is drawn: colour by its first varied setting, dash by its second; seeds look alike."""
    keys = [key for key in varied if key not in UNDRAWN]
    values = [list(dict.fromkeys(str(_setting(record, key)) for record in records)) for key in keys]
    found = {}
    for record in records:
        if _setting(record, "model.architecture") == "fixed-depth":
            found[record.run] = Look("fixed depth", "#000000", ":")
            continue
        own = [str(_setting(record, key)) for key in keys]
        places = [value.index(mine) for value, mine in zip(values, own, strict=True)]
        first, second = [*places, 0, 0][:2]
        found[record.run] = Look(" + ".join(own) or record.run, COLOURS[first % 8], DASHES[second % 4])
    return found


def _shade_training(axes: Axes, trained: int) -> None:
    axes.axvspan(1, trained, color=SHADE, alpha=0.18, lw=0)


def _tidy(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes.set_title(title, fontsize=11, loc="left")
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=min(3, len(unique)), frameon=False)


def accuracy_figure(records: Sequence[Record], varied: Sequence[str], trained: int) -> Figure:
    """Draw accuracy against iterations: one panel per split, one line per run, the training range shaded."""
    records = [record for record in records if record.evaluation]
    splits, styles = split_names(records), looks(records, varied)
    figure = Figure(figsize=(4.2 * len(splits), 4.2), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        for record in records:
            curve = (record.evaluation or {}).get(split)
            if curve is not None:
                look, accuracy = styles[record.run], [100 * value for value in curve["answer_accuracy"]]
                mark = {"marker": "o"} if len(accuracy) == 1 else {}
                axes.plot(
                    range(1, len(accuracy) + 1), accuracy, c=look.colour, ls=look.dash, lw=1.6, label=look.label, **mark
                )
        axes.set_xscale("log")
        axes.set_ylim(-3, 103)
        _shade_training(axes, trained)
        _tidy(axes, "iterations", "answers right, %" if axes is panels[0] else "", split)
    _legend(figure, panels[0])
    return figure


def interactive_accuracy(records: Sequence[Record], varied: Sequence[str], trained: int) -> go.Figure:
    """Return the same figure to explore: hover for values, click in the legend to hide a configuration."""
    records = [record for record in records if record.evaluation]
    splits, styles = split_names(records), looks(records, varied)
    figure = make_subplots(rows=len(splits), cols=1, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=splits)
    shown: set[str] = set()
    for row, split in enumerate(splits, start=1):
        for record in records:
            curve, look = (record.evaluation or {}).get(split), styles[record.run]
            if curve is None:
                continue
            accuracy = [round(100 * value, 2) for value in curve["answer_accuracy"]]
            figure.add_scatter(
                x=list(range(1, len(accuracy) + 1)),
                y=accuracy,
                mode="lines" if len(accuracy) > 1 else "markers",
                name=look.label,
                legendgroup=look.label,
                showlegend=look.label not in shown,
                line={"color": look.colour, "dash": PLOTLY_DASHES[look.dash], "width": 2},
                hovertemplate=f"{record.run}<br>iteration %{{x}}: %{{y}}%<extra></extra>",
                row=row,
                col=1,
            )
            shown.add(look.label)
        figure.add_vrect(x0=1, x1=trained, fillcolor=SHADE, opacity=0.18, line_width=0, row=row, col=1)
        figure.update_yaxes(title_text="right, %", range=[-3, 103], row=row, col=1)
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title_text="iterations", row=len(splits), col=1)
    figure.update_layout(
        height=260 * len(splits) + 120,
        margin={"l": 50, "r": 10, "t": 40, "b": 40},
        legend={"orientation": "h", "y": -0.12},
        template="plotly_white",
    )
    return figure


def residual_figure(records: Sequence[Record], varied: Sequence[str], trained: int) -> Figure:
    """Draw the median residual and the median state norm against iterations, one line per run."""
    records = [record for record in records if record.examination]
    styles = looks(records, varied)
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for record in records:
        look, curves = styles[record.run], (record.examination or {})["curves"]
        for axes, name in ((left, "residual"), (right, "norm")):
            # A residual of exactly zero has no place on a log axis; it is drawn as a gap.
            values = np.array([value or np.nan for value in curves[name][1]], dtype=float)
            axes.plot(np.arange(1, len(values) + 1), values, c=look.colour, ls=look.dash, lw=1.6, label=look.label)
    for axes, label in ((left, "relative residual, median"), (right, "norm of the state, median")):
        axes.set(xscale="log", yscale="log")
        _shade_training(axes, trained)
        _tidy(axes, "iterations", label)
    _legend(figure, left)
    return figure


def radius_figure(records: Sequence[Record], varied: Sequence[str]) -> Figure:
    """Draw the spectral radius against the accuracy kept on the hardest split, one point per run.

    Open points: the radius was taken at a state that is no fixed point.
    """
    records = [record for record in records if record.evaluation and median_radius(record.examination) is not None]
    styles = looks(records, varied)
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    hardest = split_names(records)[-1] if records else ""
    marks = dict(zip(DASHES, "os^D", strict=True))
    for record in records:
        look = styles[record.run]
        axes.plot(
            _numbers([median_radius(record.examination)]),
            [100 * (record.evaluation or {})[hardest]["last"]],
            marks[look.dash],
            c=look.colour,
            ms=9,
            mfc=look.colour if at_fixed_points(record.examination) else "none",
            label=look.label,
            ls="",
        )
    axes.axvline(1, c=SHADE, lw=1)
    axes.set_ylim(-3, 103)
    _tidy(axes, "spectral radius of the step's Jacobian, median", f"{hardest}: right at the last iteration, %")
    if records:
        _legend(figure, axes)
    return figure


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _fan(axes: Axes, quantiles: Sequence[Sequence[float | None]], colour: str = COLOURS[0]) -> None:
    low, middle, high = (_numbers(row) for row in quantiles)
    steps = np.arange(1, len(middle) + 1)
    axes.fill_between(steps, low, high, color=colour, alpha=0.22, lw=0)
    axes.plot(steps, middle, c=colour, lw=1.8)
    axes.set(xscale="log", yscale="log")


def residual_fan(exam: Mapping[str, Any]) -> Figure:
    """Draw the residual of the state over the examples: median, and 10% to 90%; the tolerance dashed."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    _fan(axes, exam["curves"]["residual"])
    axes.axhline(exam["settings"]["tolerance"], c=SHADE, ls="--", lw=1)
    _shade_training(axes, exam["settings"]["trained_iterations"] or 1)
    _tidy(axes, "iterations", "relative residual")
    return figure


def norm_fan(exam: Mapping[str, Any]) -> Figure:
    """Draw the norm of the state over the examples."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    _fan(axes, exam["curves"]["norm"], COLOURS[2])
    _shade_training(axes, exam["settings"]["trained_iterations"] or 1)
    _tidy(axes, "iterations", "norm of the state")
    return figure


def eigenvalue_plane(exam: Mapping[str, Any]) -> Figure:
    """Draw the dominant eigenvalue of every example looked at, and the leading ones of the first, on the plane."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axes = figure.subplots()
    angle = np.linspace(0, 2 * np.pi, 400)
    axes.plot(np.cos(angle), np.sin(angle), c=SHADE, lw=1)
    spectrum = exam["spectrum"]
    for name, colour, label in (("others", COLOURS[5], "first example"), ("eigenvalue", COLOURS[1], "dominant, each")):
        points = np.array([point for point in spectrum.get(name, []) if None not in point], dtype=float).reshape(-1, 2)
        for sign in (1, -1):
            axes.plot(points[:, 0], sign * points[:, 1], "o", c=colour, ms=5, label=label if sign > 0 else None)
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    _tidy(axes, "real part", "imaginary part")
    return figure


def portrait_figure(exam: Mapping[str, Any]) -> Figure:
    """Draw one orbit, and one from a random start, in their two principal directions."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    found = exam["portrait"]
    for name, colour, label in (("foreign", COLOURS[4], "from a random start"), ("path", COLOURS[0], "its own start")):
        points = np.array(found[name], dtype=float)
        axes.plot(points[:, 0], points[:, 1], "-o", c=colour, ms=2.5, lw=0.9, label=label)
        axes.plot(points[:1, 0], points[:1, 1], "s", c=colour, ms=7)
    if found["fixed_point"] is not None:
        axes.plot(*found["fixed_point"], "*", c=COLOURS[1], ms=15, label="fixed point")
    axes.legend(frameon=False, fontsize=8)
    first, second = (100 * share for share in found["explained"])
    _tidy(axes, f"first direction ({first:.0f}%)", f"second direction ({second:.0f}%)")
    return figure


def distinct_figure(exam: Mapping[str, Any]) -> Figure:
    """Draw how many distinct fixed points there are among N inputs, under own and under a common start."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    found = exam["input_dependence"]
    for name, colour, dash, label in (
        ("distinct_own", COLOURS[0], "-", "own starts"),
        ("distinct_common", COLOURS[1], "--", "one common start"),
    ):
        counts = found[name]
        axes.plot(range(1, len(counts) + 1), counts, c=colour, ls=dash, lw=2, label=label)
    axes.legend(frameon=False, fontsize=8)
    axes.set_ylim(bottom=0)
    _tidy(axes, "inputs", "distinct fixed points")
    return figure


def basin_figure(exam: Mapping[str, Any]) -> Figure:
    """Draw the fraction of perturbed starts that come back, by the size of the perturbation."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    found = exam["basin"]
    axes.plot(found["radii"], 100 * _numbers(found["returned"]), "-o", c=COLOURS[0])
    axes.set(xscale="log", ylim=(-3, 103))
    _tidy(axes, "perturbation over the norm of the fixed point", "came back, %")
    return figure


def gradient_figure(exam: Mapping[str, Any]) -> Figure:
    """Draw the norm of a gradient after it went back through k iterations."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    _fan(axes, np.array(exam["geometry"]["gradient_norms"], dtype=object).T.tolist(), COLOURS[3])
    axes.set_xscale("linear")
    _tidy(axes, "iterations back", "gradient norm")
    return figure


def token_map(exam: Mapping[str, Any]) -> Figure:
    """Draw when each token of the first example settled: a board where the tokens make one, else a strip."""
    settled = np.array(exam["tokens"][0], dtype=float)
    side = round(len(settled) ** 0.5)
    width = side if side * side == len(settled) and side > 5 else min(32, len(settled))
    rows = -(-len(settled) // width)
    board = np.full(rows * width, np.nan)
    board[: len(settled)] = np.where(settled > 0, settled, np.nan)
    figure = Figure(figsize=(5, 0.9 + max(1.0, 4.2 * rows / width)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(board.reshape(rows, width)), cmap="viridis")
    figure.colorbar(image, ax=axes, label="settled after iteration", shrink=0.8)
    axes.set(xticks=[], yticks=[])
    return figure
