"""The figures of an examination, each with what it needs and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from loopscope.reports.kit.charts import (
    COLOURS,
    INK,
    SHADE,
    Panel,
    iteration_axis,
    numbers,
    percent_axis,
    shade_training,
    size_axis,
    tidy,
)

Values = Mapping[str, Any]
"""An examination as plain values."""
OUTCOMES = {
    "moved": COLOURS[2],
    "stayed": COLOURS[0],
    "shared": COLOURS[1],
    "elsewhere": COLOURS[3],
    "unknown": SHADE,
}
COMPACT: Any = {"columnspacing": 1.0, "handlelength": 1.0, "handletextpad": 0.4}
BOARDS = (64, 81)
STRIP = 32
"""Tokens in a row, where they make no board."""


@dataclass(frozen=True)
class ExaminationFigure:
    """One figure of an examination.

    Args:
        title: its heading.
        caption: how to read it, in a sentence or two.
        needs: whether an examination holds what is drawn.
        draw: draws an examination.
        parts: the parts of the examination that measure it, as its ``unknown`` names them.
        height: in inches, of an examination.
        comparable: whether two of them side by side take the same limits.
    """

    title: str
    caption: str
    needs: Callable[[Values], bool]
    draw: Callable[[Axes, Values], None]
    parts: tuple[str, ...]
    height: Callable[[Values], float] = lambda _: 3.3
    comparable: bool = True

    def panel(self, values: Values) -> Panel:
        """Return the figure of an examination."""
        return Panel(lambda axes: self.draw(axes, values), height=self.height(values))


def _fan(axes: Axes, quantiles: Sequence[Sequence[float | None]], colour: str) -> np.ndarray:
    low, middle, high = (numbers(row) for row in quantiles)
    low, middle, high = (np.where(row > 0, row, np.nan) for row in (low, middle, high))
    steps = np.arange(1, len(middle) + 1)
    axes.fill_between(steps, low, high, color=colour, alpha=0.25, lw=0)
    axes.plot(steps, middle, c=colour, lw=2)
    return np.concatenate([low, middle, high])


def _has(rows: Sequence[Sequence[float | None]]) -> bool:
    """Return whether there is anything that a log axis can show."""
    return any(value for row in rows for value in row)


def _residual(axes: Axes, values: Values) -> None:
    rows = values["curves"]["residual"]
    size_axis(axes, _fan(axes, rows, COLOURS[0]))
    axes.axhline(values["settings"]["tolerance"], c=SHADE, ls="--", lw=1.2)
    iteration_axis(axes, len(rows[0]))
    shade_training(axes, values["settings"]["trained_iterations"])
    tidy(axes, "iterations", "relative residual")


def _norm(axes: Axes, values: Values) -> None:
    rows = values["curves"]["norm"]
    size_axis(axes, _fan(axes, rows, COLOURS[2]))
    iteration_axis(axes, len(rows[0]))
    shade_training(axes, values["settings"]["trained_iterations"])
    tidy(axes, "iterations", "norm of the state")


def _accuracy(axes: Axes, values: Values) -> None:
    curve, changes = (100 * numbers(values["curves"][name] or []) for name in ("accuracy", "prediction_changes"))
    for row, colour, dash, label in (
        (curve, COLOURS[0], "-", "inputs right"),
        (changes, COLOURS[1], "--", "predictions that changed"),
    ):
        if np.isfinite(row).any():
            axes.plot(np.arange(1, len(row) + 1), row, c=colour, ls=dash, lw=2, label=label)
    iteration_axis(axes, max(len(curve), len(changes)))
    shade_training(axes, values["settings"]["trained_iterations"])
    percent_axis(axes)
    axes.legend(loc="best")
    tidy(axes, "iterations", "%")


def _points(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    return np.array([row for row in rows if None not in row], dtype=float).reshape(-1, 2)


def _eigenvalues(axes: Axes, values: Values) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), c=INK, lw=1)
    spectrum, reach = values["spectrum"], 1.0
    found = list(zip(spectrum["eigenvalue"], spectrum["at_fixed_point"], strict=True))
    for rows, colour, face, label in (
        (spectrum.get("others") or [], COLOURS[5], COLOURS[5], "others of the first input"),
        ([row for row, fixed in found if fixed], COLOURS[1], COLOURS[1], "dominant one of each input"),
        ([row for row, fixed in found if not fixed], COLOURS[1], "none", "dominant, at no fixed point"),
    ):
        points = _points(rows)
        if len(points):
            both = np.concatenate([points, points * (1, -1)])  # the conjugate is an eigenvalue too
            axes.plot(*both.T, "o", c=colour, mfc=face, ms=5.5, alpha=0.8, label=label)
            reach = max(reach, float(np.abs(both).max()))
    axes.set_aspect("equal")
    axes.set(xlim=(-1.1 * reach, 1.1 * reach), ylim=(-1.1 * reach, 1.1 * reach))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, **COMPACT)
    tidy(axes, "real part", "imaginary part")


def _portrait(axes: Axes, values: Values) -> None:
    found = values["portrait"]
    for name, colour, label in (("foreign", COLOURS[4], "from a random start"), ("path", COLOURS[0], "its own start")):
        points = _points(found.get(name) or [])
        if len(points):
            axes.plot(*points.T, "-o", c=colour, ms=2.6, lw=1, label=label)
            axes.plot(*points[0], "s", c=colour, ms=7)
    if found["fixed_point"] is not None:
        axes.plot(*found["fixed_point"], "*", c=COLOURS[1], ms=15, mew=0, ls="", label="fixed point")
    axes.legend(loc="best")
    axes.margins(0.08)
    first, second = (100 * (share or 0) for share in found["explained"])
    tidy(axes, f"first direction ({first:.0f}% of the variance)", f"second direction ({second:.0f}%)")


def _swaps(axes: Axes, values: Values) -> None:
    found = values["input_dependence"]
    bars = {"another start,\nsame recall": "start_swap", "another recall,\nsame state": "recall_swap"}
    for outcome, colour in OUTCOMES.items():
        for place, key in enumerate(bars.values()):
            counts, total = found[key], sum(found[key].values())
            before = sum(counts.get(other, 0) for other in list(OUTCOMES)[: list(OUTCOMES).index(outcome)])
            if count := counts.get(outcome, 0):
                left, width = 100 * before / total, 100 * count / total
                axes.barh(place, width, left=left, color=colour, height=0.55, label=outcome)
                axes.text(left + width / 2, place, str(count), ha="center", va="center", fontsize=8.5, c="white")
    axes.set(xlim=(0, 100), ylim=(-0.5, 1.5))
    axes.set_yticks(range(2), list(bars), fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    axes.legend(shown.values(), shown.keys(), loc="lower center", bbox_to_anchor=(0.4, 1), ncols=5, **COMPACT)
    tidy(axes, "% of pairs of inputs", "")


def _distinct(axes: Axes, values: Values) -> None:
    found = values["input_dependence"]
    count = max(len(found[name]) for name in ("distinct_own", "distinct_common"))
    axes.plot([1, count], [1, count], c=SHADE, lw=1, ls=":", label="each its own")
    for name, colour, dash, width, label in (
        ("distinct_own", COLOURS[0], "-", 4, "own starts"),
        ("distinct_common", COLOURS[1], "--", 2, "one common start"),
    ):
        axes.plot(range(1, len(found[name]) + 1), found[name], c=colour, ls=dash, lw=width, alpha=0.85, label=label)
    axes.legend(loc="upper left")
    axes.set_ylim(0, 1.1 * count)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, "inputs N", "distinct fixed points")


def _basin(axes: Axes, values: Values) -> None:
    found = values["basin"]
    radii, places = found["radii"], list(range(len(found["radii"])))
    axes.plot(places, 100 * numbers(found["returned"]), "-o", c=COLOURS[0], lw=2, label="perturbed")
    labels = [f"{radius:g}" for radius in radii]
    for name, label, mark in (("random", "random\nstart", "D"), ("foreign", "other\ninput", "s")):
        back = (found.get(name) or {}).get("returned")
        if back is not None:
            places.append(len(places))
            labels.append(label)
            axes.plot(places[-1], 100 * back, mark, c=COLOURS[1], ms=8)
    axes.set_xticks(places, labels, fontsize=8.5)
    axes.set_xlim(-0.5, len(places) - 0.5)
    percent_axis(axes)
    tidy(axes, "size of the perturbation, relative to the fixed point", "came back, %")


def _gradient(axes: Axes, values: Values) -> None:
    rows = np.array([numbers(row) for row in values["geometry"]["gradient_norms"]]).T.tolist()
    size_axis(axes, _fan(axes, rows, COLOURS[3]))
    axes.set_xlim(1, max(2, len(rows[0])))
    tidy(axes, "iterations k that it passed", "norm of the gradient")


def _transient(axes: Axes, values: Values) -> None:
    found = values["geometry"]
    rows = np.array([numbers(row) for row in found["power_norms"]])
    axes.plot(found["powers"], rows, c=COLOURS[5], lw=0.9, alpha=0.7)
    axes.plot(found["powers"], np.median(rows, axis=1), "-o", c=COLOURS[0], lw=2, ms=4)
    axes.axhline(1, c=SHADE, lw=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(found["powers"], [f"{power:g}" for power in found["powers"]])
    axes.minorticks_off()
    size_axis(axes, rows)
    tidy(axes, "iterations k", "norm of J to the power k")


def board_shape(tokens: int) -> tuple[int, int]:
    """Return rows and columns of a token map: a board for 64 or 81 tokens, else a strip, wrapped."""
    if tokens in BOARDS:
        side = round(tokens**0.5)
        return side, side
    columns = min(STRIP, tokens)
    return -(-tokens // columns), columns


def _token_map(axes: Axes, values: Values) -> None:
    settled = np.array(values["tokens"][0], dtype=float)
    rows, columns = board_shape(len(settled))
    board = np.pad(settled, (0, rows * columns - len(settled))).reshape(rows, columns)
    times = np.ma.masked_less_equal(board, 0)
    low, high = float(times.min()), float(times.max())
    colours = mpl.colormaps["viridis"]
    mesh = axes.pcolormesh(times, cmap=colours, vmin=low, vmax=max(high, low + 1), edgecolors=SHADE, lw=0.4)
    for row, column in zip(*np.nonzero(board), strict=True):
        value, middle = board[row, column], (column + 0.5, row + 0.5)
        if value < 0:
            axes.text(*middle, "×", ha="center", va="center", fontsize=8)
        elif columns <= 9:
            ink = "white" if (value - low) / max(high - low, 1) < 0.6 else "black"
            axes.text(*middle, f"{value:.0f}", ha="center", va="center", fontsize=8, c=ink)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if columns > 9:
        ticks = MaxNLocator(6, integer=True)
        bar = axes.figure.colorbar(mesh, ax=axes, orientation="horizontal", shrink=0.7, aspect=30, ticks=ticks)
        bar.set_label("settled after iteration")
        bar.outline.set_visible(False)


def _token_map_height(values: Values) -> float:
    rows, columns = board_shape(len(values["tokens"][0]))
    return 4.2 * rows / columns + (0.9 if columns > 9 else 0)


def _settled(values: Values) -> bool:
    return bool(values["tokens"]) and any(settled > 0 for settled in values["tokens"][0])


FIGURES = (
    ExaminationFigure(
        "Does it arrive?",
        "How much one iteration still changes the state: median and 10–90% of the inputs; shaded: training; dashed: the "
        "tolerance. Falling to the floor is a fixed point, a plateau a cycle or chaos, a slow fall like 1/t a drift.",
        lambda values: _has(values["curves"]["residual"]),
        _residual,
        ("orbits",),
    ),
    ExaminationFigure(
        "How large is the state?",
        "Median and 10–90% of the inputs. A readout that normalizes hides a state that grows without bound; here it shows.",
        lambda values: _has(values["curves"]["norm"]),
        _norm,
        ("orbits",),
    ),
    ExaminationFigure(
        "Does the answer stay?",
        "Inputs whose whole answer is right (where targets were given), and predictions that one more iteration changed. "
        "Changes that do not die out mean an answer that depends on when one stops.",
        lambda values: any(
            value is not None for name in ("accuracy", "prediction_changes") for value in values["curves"][name] or []
        ),
        _accuracy,
        ("orbits",),
    ),
    ExaminationFigure(
        "Where does an orbit go?",
        "One input's orbit, and one from a random start, in the two directions that show most of them (squares: starts). "
        "Both ending on the star: one attracting fixed point.",
        lambda values: bool(values["portrait"].get("path")),
        _portrait,
        ("portrait",),
        comparable=False,
    ),
    ExaminationFigure(
        "Eigenvalues of the Jacobian",
        "Inside the unit circle small errors shrink, outside they grow; the dominant one sets the pace, and off the real "
        "axis errors also turn. Open marks: taken at a state that is no fixed point.",
        lambda values: bool(_points(values["spectrum"].get("eigenvalue") or []).size),
        _eigenvalues,
        ("spectrum",),
        height=lambda _: 4.0,
    ),
    ExaminationFigure(
        "Does it come back?",
        "Fraction of states that return to the same fixed point after a push of growing size, and from starts that have "
        "nothing to do with it. High on the right: a wide basin.",
        lambda values: any(value is not None for value in values["basin"].get("returned", [])),
        _basin,
        ("basin",),
    ),
    ExaminationFigure(
        "Swap test",
        "Another input recalled while the state is kept: a loop that solves this problem's input moves to the other's "
        "fixed point. Another start with the recall kept: it should come back (stayed). Shared: both inputs have one point.",
        lambda values: (
            any(values["input_dependence"].get("recall_swap", {}).values())
            and any(values["input_dependence"].get("start_swap", {}).values())
        ),
        _swaps,
        ("swaps", "input-dependence"),
        height=lambda _: 2.5,
    ),
    ExaminationFigure(
        "Distinct fixed points",
        "Among the first N inputs. Only growth under one common start shows that the fixed point depends on the input, and "
        "not merely on where the orbit began.",
        lambda values: bool(values["input_dependence"].get("distinct_common")),
        _distinct,
        ("distinct fixed points", "input-dependence"),
    ),
    ExaminationFigure(
        "Can gradients pass?",
        "Norm of a gradient after its way back through k iterations: median and 10–90% of the inputs. Level is easy to "
        "train; a steep rise explodes, a steep fall forgets.",
        lambda values: _has(values["geometry"].get("gradient_norms") or []),
        _gradient,
        ("gradients", "geometry"),
    ),
    ExaminationFigure(
        "Transient growth",
        "How much k iterations can enlarge a small error (thin: each input; thick: median; lower bounds). A rise above 1 "
        "before the fall: the error grows first, though the fixed point attracts.",
        lambda values: _has(values["geometry"].get("power_norms") or []),
        _transient,
        ("transient growth", "geometry"),
    ),
    ExaminationFigure(
        "When does each token settle?",
        "The iteration after which each token of the first input stays within the tolerance; × never did, blank is padding. "
        "Late tokens are the hard ones; a front shows how far information travels per iteration.",
        _settled,
        _token_map,
        ("orbits",),
        height=_token_map_height,
        comparable=False,
    ),
)
"""In the order of the page."""
