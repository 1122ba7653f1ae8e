"""The figures of an examination, each with what it needs and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
from loopscope.stability import Examination
from loopscope.stability.language.results import LoopsResult
from loopscope.stability.nonautonomous.results import KeptResult, NonautonomousResult
from loopscope.stability.results import (
    BasinResult,
    DistinctResult,
    GradientResult,
    Numbers,
    PortraitResult,
    SpectrumResult,
    SwapResult,
    TransientResult,
    known,
)

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
MARKED = 100
"""Most points of a path that are marked one by one."""
TICKS = 4
"""Most intervals between the ticks of an axis whose labels may be long, such as -12000."""


Part = TypeVar("Part")


@dataclass(frozen=True)
class Remark(Generic[Part]):
    """A sentence of a caption about something that is drawn of some examinations only.

    Args:
        words: the sentence.
        applies: whether it is drawn of a part.
    """

    words: str
    applies: Callable[[Part], bool]


@dataclass(frozen=True)
class ExaminationFigure(Generic[Part]):
    """One figure of an examination.

    Args:
        title: its heading.
        caption: how to read it, in a sentence or two.
        part: returns what is drawn of an examination, or None where there is nothing to draw.
        draw: draws it.
        names: the parts of the examination that measure it, as its ``unknown`` names them.
        height: in inches.
        comparable: whether two of them side by side take the same limits.
        applies: whether an examination could hold what is drawn; there is nothing to miss elsewhere.
        remarks: sentences that follow the caption where they apply.
        absent: why there may be nothing to draw; empty where the effort decides.
    """

    title: str
    caption: str
    part: Callable[[Examination], Part | None]
    draw: Callable[[Axes, Part], None]
    names: tuple[str, ...]
    height: Callable[[Part], float] = lambda _: 3.3
    comparable: bool = True
    applies: Callable[[Examination], bool] = lambda _: True
    remarks: tuple[Remark[Part], ...] = ()
    absent: str = ""

    def caption_of(self, exams: Sequence[Examination]) -> str:
        """Return the caption of the figure of some examinations. It names nothing that none of them shows."""
        parts = [part for exam in exams if (part := self.part(exam)) is not None]
        remarks = [remark.words for remark in self.remarks if any(map(remark.applies, parts))]
        return " ".join([self.caption, *remarks])

    def needs(self, exam: Examination) -> bool:
        """Return whether an examination holds what is drawn."""
        return self.part(exam) is not None

    def panel(self, exam: Examination) -> Panel:
        """Return the figure of an examination that holds what is drawn."""
        part = self.part(exam)
        if part is None:
            raise ValueError(f"the examination holds nothing for the figure {self.title!r}")
        return Panel(lambda axes: self.draw(axes, part), height=self.height(part))


def _fan(axes: Axes, quantiles: Sequence[Sequence[float | None]], colour: str) -> np.ndarray:
    low, middle, high = (numbers(row) for row in quantiles)
    low, middle, high = (np.where(row > 0, row, np.nan) for row in (low, middle, high))
    steps = np.arange(1, len(middle) + 1)
    axes.fill_between(steps, low, high, color=colour, alpha=0.25, lw=0)
    axes.plot(steps, middle, c=colour, lw=2)
    return np.concatenate([low, middle, high])


def _residual(axes: Axes, exam: Examination) -> None:
    rows = exam.curves.residual
    size_axis(axes, _fan(axes, rows, COLOURS[0]))
    axes.axhline(exam.settings.tolerance, c=SHADE, ls="--", lw=1.2)
    iteration_axis(axes, len(rows[0]))
    shade_training(axes, exam.settings.trained_iterations)
    tidy(axes, "iterations", "relative residual")


def _norm(axes: Axes, exam: Examination) -> None:
    rows = exam.curves.norm
    size_axis(axes, _fan(axes, rows, COLOURS[2]))
    iteration_axis(axes, len(rows[0]))
    shade_training(axes, exam.settings.trained_iterations)
    tidy(axes, "iterations", "norm of the state")


def _accuracy(axes: Axes, exam: Examination) -> None:
    answers = "tokens" if exam.settings.answers_per == "token" else "inputs"
    curve, changes = 100 * numbers(exam.curves.accuracy or []), 100 * numbers(exam.curves.prediction_changes)
    for row, colour, dash, label in (
        (curve, COLOURS[0], "-", f"{answers} right"),
        (changes, COLOURS[1], "--", "predictions that changed"),
    ):
        read = np.flatnonzero(np.isfinite(row))  # a large readout is not read after every iteration
        if len(read):
            axes.plot(read + 1, row[read], c=colour, ls=dash, lw=2, label=label)
    iteration_axis(axes, max(len(curve), len(changes)))
    shade_training(axes, exam.settings.trained_iterations)
    percent_axis(axes)
    axes.legend(loc="best")
    tidy(axes, "iterations", "%")


def _points(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    return np.array([row for row in rows if None not in row], dtype=float).reshape(-1, 2)


def _eigenvalues(axes: Axes, spectrum: SpectrumResult) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), c=INK, lw=1)
    reach = 1.0
    found = list(zip(spectrum.eigenvalue, spectrum.at_fixed_point, strict=True))
    for rows, colour, face, label in (
        (spectrum.others, COLOURS[5], COLOURS[5], "others of the first input"),
        ([row for row, fixed in found if fixed], COLOURS[1], COLOURS[1], "dominant one of each input"),
        ([row for row, fixed in found if not fixed], COLOURS[1], "none", "dominant, not at a fixed point"),
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


def _portrait(axes: Axes, found: PortraitResult) -> None:
    for rows, colour, size, label in (
        (found.foreign, COLOURS[4], 10, "from a random start"),
        (found.path, COLOURS[0], 6, "its own start"),
    ):
        points = _points(rows)
        if len(points):
            axes.plot(*points.T, "-o", c=colour, ms=2.6 if len(points) <= MARKED else 0, lw=1.2, label=label)
            axes.plot(*points[0], "s", c=colour, ms=size)
    if found.fixed_point is not None:
        axes.plot(*_points([found.fixed_point])[0], "*", c=COLOURS[1], ms=15, mew=0, ls="", label="fixed point")
    axes.legend(loc="best")
    axes.margins(0.08)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(TICKS))
    first, second = (100 * (share or 0) for share in found.explained)
    tidy(axes, f"first direction ({first:.0f}% of the variance)", f"second direction ({second:.0f}%)")


def _swaps(axes: Axes, found: SwapResult) -> None:
    bars = {"another start,\nsame recall": found.start, "another recall,\nsame state": found.recall}
    for outcome, colour in OUTCOMES.items():
        for place, counts in enumerate(bars.values()):
            total = sum(counts.values())
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


def _distinct(axes: Axes, found: DistinctResult) -> None:
    count = max(len(found.own), len(found.common))
    for counts, colour, dash, width, label in (
        (found.own, COLOURS[0], "-", 6, "own starts"),
        (found.common, COLOURS[1], "--", 3.5, "one common start"),
    ):
        axes.plot(range(1, len(counts) + 1), counts, c=colour, ls=dash, lw=width, alpha=0.85, label=label)
    axes.plot([1, count], [1, count], c=INK, lw=1, ls=":", label="each its own")
    axes.legend(loc="upper left")
    axes.set_ylim(0, 1.1 * count)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, "inputs N", "distinct fixed points")


def _basin(axes: Axes, found: BasinResult) -> None:
    places = list(range(len(found.radii)))
    axes.plot(places, 100 * numbers(found.returned), "-o", c=COLOURS[0], lw=2, label="perturbed")
    labels = [f"{radius:g}" for radius in found.radii]
    for starts, label, mark in ((found.random, "random\nstart", "D"), (found.foreign, "other\ninput", "s")):
        if starts.returned is not None:
            places.append(len(places))
            labels.append(label)
            axes.plot(places[-1], 100 * starts.returned, mark, c=COLOURS[1], ms=8)
    axes.set_xticks(places, labels, fontsize=8.5)
    axes.set_xlim(-0.5, len(places) - 0.5)
    percent_axis(axes)
    tidy(axes, "size of the perturbation, relative to the fixed point", "came back, %")


def _gradient(axes: Axes, found: GradientResult) -> None:
    rows = np.array([numbers(row) for row in found.norms]).T.tolist()
    size_axis(axes, _fan(axes, rows, COLOURS[3]))
    axes.set_xlim(1, max(2, len(rows[0])))
    tidy(axes, "iterations k that it passed", "norm of the gradient")


def _transient(axes: Axes, found: TransientResult) -> None:
    rows = np.array([numbers(row) for row in found.norms])
    axes.plot(found.powers, rows, c=COLOURS[5], lw=0.9, alpha=0.7)
    axes.plot(found.powers, np.median(rows, axis=1), "-o", c=COLOURS[0], lw=2, ms=4)
    axes.axhline(1, c=SHADE, lw=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(found.powers, [f"{power:g}" for power in found.powers])
    axes.minorticks_off()
    size_axis(axes, rows)
    tidy(axes, "iterations k", "norm of J to the power k")


def _kept(axes: Axes, found: KeptResult) -> None:
    shares = 100 * numbers(found.kept)
    axes.plot(np.arange(1, len(shares) + 1), shares, c=COLOURS[0], lw=2)
    iteration_axis(axes, len(shares))
    shade_training(axes, found.reference)
    percent_axis(axes)
    tidy(axes, "iterations", f"answers as after {found.reference}, %")


def _growth(axes: Axes, found: NonautonomousResult) -> None:
    assert found.exponents is not None
    rows = found.exponents.growth
    drawn = _fan(axes, rows, COLOURS[3])
    axes.axhline(1, c=SHADE, lw=1.2)
    for name, radius in found.parts.items():
        axes.axhline(radius, c=COLOURS[0], ls="--", lw=1.2, label=f"radius of {name}, a part of the step")
    if found.parts:
        axes.legend(loc="best")
    size_axis(axes, np.concatenate([drawn, [1.0, *found.parts.values()]]))
    iteration_axis(axes, len(rows[0]))
    tidy(axes, "iterations", "factor on small errors")


def board_shape(tokens: int) -> tuple[int, int]:
    """Return rows and columns of a token map: a board for 64 or 81 tokens, else a wrapped strip."""
    if tokens in BOARDS:
        side = round(tokens**0.5)
        return side, side
    columns = min(STRIP, tokens)
    return -(-tokens // columns), columns


def _token_map(axes: Axes, tokens: list[int]) -> None:
    settled = np.array(tokens, dtype=float)
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


def _token_map_height(tokens: list[int]) -> float:
    rows, columns = board_shape(len(tokens))
    return 4.2 * rows / columns + (0.9 if columns > 9 else 0)


def _if_any(part: Part, rows: Sequence[Numbers]) -> Part | None:
    """Return a part if its rows hold anything that a log axis can show."""
    return part if any(value for row in rows for value in row) else None


def _loops_of(exam: Examination) -> LoopsResult | None:
    return None if exam.language is None else exam.language.loops


def _loops(axes: Axes, found: LoopsResult) -> None:
    shares = 100 * numbers(found.quality)
    axes.plot(found.loops, shares, c=COLOURS[0], lw=2, marker="o" if len(shares) == 1 else "")
    for count, colour, label in ((found.enough, COLOURS[2], "enough"), (found.safe, COLOURS[1], "safe up to here")):
        if count is not None:
            axes.plot(count, shares[found.loops.index(count)], "o", c=colour, ms=9, label=label)
    if found.enough is not None or found.safe is not None:
        axes.legend(loc="lower left")
    iteration_axis(axes, max(found.loops))
    percent_axis(axes)
    label = "tokens right, %" if found.reference is None else f"answered as after {found.reference}, %"
    tidy(axes, "loops", label)


def _answers_of(exam: Examination) -> Examination | None:
    return exam if known([*(exam.curves.accuracy or []), *exam.curves.prediction_changes]) else None


def _portrait_of(exam: Examination) -> PortraitResult | None:
    return exam.portrait if exam.portrait is not None and exam.portrait.path else None


def _spectrum_of(exam: Examination) -> SpectrumResult | None:
    return exam.spectrum if exam.spectrum is not None and _points(exam.spectrum.eigenvalue).size else None


def _basin_of(exam: Examination) -> BasinResult | None:
    return exam.basin if exam.basin is not None and known(exam.basin.returned) else None


def _swaps_of(exam: Examination) -> SwapResult | None:
    found = exam.input_dependence.swaps
    return found if found is not None and any(found.recall.values()) and any(found.start.values()) else None


def _distinct_of(exam: Examination) -> DistinctResult | None:
    found = exam.input_dependence.distinct
    return found if found is not None and found.common else None


def _gradients_of(exam: Examination) -> GradientResult | None:
    found = exam.geometry.gradients
    return None if found is None else _if_any(found, found.norms)


def _transient_of(exam: Examination) -> TransientResult | None:
    found = exam.geometry.transient
    return None if found is None else _if_any(found, found.norms)


def _along_orbit(exam: Examination) -> bool:
    return exam.nonautonomous is not None


def _kept_of(exam: Examination) -> KeptResult | None:
    return None if exam.nonautonomous is None else exam.nonautonomous.answers


def _growth_of(exam: Examination) -> NonautonomousResult | None:
    found = exam.nonautonomous
    return None if found is None or found.exponents is None else _if_any(found, found.exponents.growth)


def _tokens_of(exam: Examination) -> list[int] | None:
    tokens = exam.tokens[0] if exam.tokens else []
    return tokens if len(tokens) > 1 and max(tokens) > 0 else None


def _any_swap(found: SwapResult, outcome: str) -> bool:
    return bool(found.recall.get(outcome, 0) or found.start.get(outcome, 0))


SHADED: Remark[Examination] = Remark(
    "Shaded: the iterations of training.", lambda exam: bool(exam.settings.trained_iterations)
)
FIGURES: tuple[ExaminationFigure[Any], ...] = (
    ExaminationFigure(
        "How many loops?",
        "Answers of tokens after each number of loops: those that are right or, where that is not known, those that agree with the "
        "answers of the loops named on the axis.",
        _loops_of,
        _loops,
        ("loops",),
        applies=lambda exam: exam.language is not None,
    ),
    ExaminationFigure(
        "Does it arrive?",
        "How much one iteration still changes the state: median and 10–90% of the inputs. Dashed: the tolerance. A fall to "
        "the floor is a fixed point, a plateau a cycle or chaos, a slow fall like 1/t a drift.",
        lambda exam: _if_any(exam, exam.curves.residual),
        _residual,
        ("orbits",),
        remarks=(SHADED,),
    ),
    ExaminationFigure(
        "How large is the state?",
        "Median and 10–90% of the inputs. A readout that normalizes hides a state that grows without bound; this shows it.",
        lambda exam: _if_any(exam, exam.curves.norm),
        _norm,
        ("orbits",),
        remarks=(SHADED,),
    ),
    ExaminationFigure(
        "Does the answer stay?",
        "Predictions that one more iteration changed. If changes do not die out, the answer depends on when the loop stops.",
        _answers_of,
        _accuracy,
        ("orbits",),
        remarks=(
            Remark("Solid: inputs whose whole answer is right.", lambda exam: bool(known(exam.curves.accuracy or []))),
            SHADED,
        ),
    ),
    ExaminationFigure(
        "Are answers kept?",
        "Inputs whose answer is that of one iteration (shaded up to there): the last one of training where it is known, else "
        "half of the budget. The mean over draws where the step draws random numbers.",
        _kept_of,
        _kept,
        ("answers kept",),
        applies=_along_orbit,
    ),
    ExaminationFigure(
        "Do errors grow?",
        "Factor by which each iteration multiplies the fastest growing small errors along the orbit: median and 10–90% of the "
        "inputs. Above 1 they grow. Dashed: radii of parts of the step, which do not decide what the whole step does.",
        _growth_of,
        _growth,
        ("exponents",),
        applies=_along_orbit,
    ),
    ExaminationFigure(
        "Where does an orbit go?",
        "One input's orbit in the two directions that show most of it. Squares: starts.",
        _portrait_of,
        _portrait,
        ("portrait",),
        comparable=False,
        remarks=(
            Remark("A second orbit of this input begins at a random start.", lambda found: bool(found.foreign)),
            Remark("Star: the fixed point of the first orbit.", lambda found: found.fixed_point is not None),
            Remark(
                "If both orbits end there, it attracts from far away.",
                lambda found: found.fixed_point is not None and bool(found.foreign),
            ),
            Remark("The orbit arrives at no fixed point.", lambda found: found.fixed_point is None),
        ),
    ),
    ExaminationFigure(
        "Eigenvalues of the Jacobian",
        "Inside the unit circle small errors shrink, outside they grow. The dominant eigenvalue sets the pace; off the real "
        "axis errors also rotate.",
        _spectrum_of,
        _eigenvalues,
        ("spectrum",),
        height=lambda _: 4.0,
        remarks=(
            Remark(
                "Open marks: measured at a state that had not arrived at a fixed point.",
                lambda found: not all(found.at_fixed_point),
            ),
        ),
    ),
    ExaminationFigure(
        "Does it come back?",
        "Fraction of states that return to the same fixed point after perturbations of growing size, and from unrelated "
        "starts. High on the right: a wide basin of attraction.",
        _basin_of,
        _basin,
        ("basin",),
    ),
    ExaminationFigure(
        "Swap test",
        "Another input is recalled while the state is kept: a loop that depends on its input moves to the other input's fixed "
        "point (moved). The recalled input is kept and the start swapped: the loop should come back (stayed).",
        _swaps_of,
        _swaps,
        ("swaps", "input-dependence"),
        height=lambda _: 2.5,
        remarks=(
            Remark("Shared: both inputs have one fixed point.", lambda found: _any_swap(found, "shared")),
            Remark("Unknown: an orbit did not arrive.", lambda found: _any_swap(found, "unknown")),
        ),
    ),
    ExaminationFigure(
        "Distinct fixed points",
        "Among the first N inputs. Only growth under one common start shows that the fixed point depends on the input, and "
        "not merely on where the orbit began.",
        _distinct_of,
        _distinct,
        ("distinct fixed points", "input-dependence"),
    ),
    ExaminationFigure(
        "Can gradients pass?",
        "Norm of a gradient after its way back through k iterations: median and 10–90% of the inputs. A level curve is easy "
        "to train; a steep rise explodes, a steep fall vanishes.",
        _gradients_of,
        _gradient,
        ("gradients", "geometry"),
    ),
    ExaminationFigure(
        "Transient growth",
        "How much k iterations can enlarge a small error. Thin: each input; thick: the median; both are lower bounds. A rise "
        "above 1 before the fall: the error grows first, although the fixed point attracts.",
        _transient_of,
        _transient,
        ("transient growth", "geometry"),
    ),
    ExaminationFigure(
        "When does each token settle?",
        "The iteration after which each token of the first input stays within the tolerance. Late tokens are the hard ones; a "
        "front shows how far information travels per iteration.",
        _tokens_of,
        _token_map,
        ("orbits",),
        height=_token_map_height,
        comparable=False,
        absent="no token of the first input settles, or its state has a single token",
        remarks=(
            Remark("× marks tokens that never do.", lambda tokens: min(tokens) < 0),
            Remark("Padding is blank.", lambda tokens: 0 in tokens),
        ),
    ),
)
"""In the order of the page."""
