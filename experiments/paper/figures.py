"""The paper's figures: accuracy against iterations, and the radius of W_state against accuracy.

The radius of the Jacobian, which the paper does not have, is drawn beside that of W_state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from experiments.paper.runs import LONG, Run
from experiments.paper.tables import NORMS
from experiments.prediction.analysis.breakdowns import recall_name
from loopscope.reports.kit.charts import COLOURS, INK, SHADE, Panel, draw_panels, percent_axis, png, tidy
from loopscope.reports.kit.styles import MARKS, RECALLS, Style, add_legend, line_handle, mark_handle, norm_dash

WIDTH, HEIGHT = 4.4, 3.6
COLOUR = dict(zip(RECALLS, COLOURS, strict=False))
MARK = dict(zip(NORMS, MARKS, strict=False))


def hardest(run: Run) -> tuple[str, float]:
    """Return the last split of a run and the accuracy on it at iteration 500."""
    split = list(run.accuracy)[-1]
    return split, run.accuracy[split][LONG]


def _against(runs: Sequence[Run], value: Callable[[Run], float | None], label: str) -> Panel:
    def draw(axes: Axes) -> None:
        axes.axvline(1, c=SHADE, lw=1)
        for run in runs:
            x, (recall, norm) = value(run), run.choice
            if x is None:
                continue
            face = COLOUR[recall] if run.at_fixed_point else "none"
            axes.plot(
                [x], [100 * hardest(run)[1]], MARK[norm], c=COLOUR[recall], mfc=face, ms=8, mew=1.5, clip_on=False
            )
        percent_axis(axes)
        tidy(axes, label, f"right at iteration {LONG}, {hardest(runs[0])[0]}, %")

    return Panel(draw, WIDTH, HEIGHT)


def _over_training(runs: Sequence[Run]) -> Panel:
    def draw(axes: Axes) -> None:
        for run in runs:
            if run.training:
                steps, radii = zip(*run.training, strict=True)
                axes.plot(steps, radii, lw=1.6, **_line(run))
        axes.axhline(1, c=SHADE, lw=1)
        tidy(axes, "training step", "spectral radius of W_state")

    return Panel(draw, WIDTH, HEIGHT)


def _curves(runs: Sequence[Run], split: str) -> Panel:
    def draw(axes: Axes) -> None:
        axes.axvspan(1, runs[0].trained_iterations, color=SHADE, alpha=0.18, lw=0)
        for run in runs:
            points = run.accuracy.get(split, {})
            shown = [100 * value for value in points.values()]
            axes.plot([int(point) for point in points], shown, lw=1.6, **_line(run))
        axes.set_xscale("log")
        percent_axis(axes)
        tidy(axes, "iterations", f"{split}: right, %")

    return Panel(draw, WIDTH, HEIGHT)


def _line(run: Run) -> dict[str, Any]:
    recall, norm = run.choice
    return Style("", COLOUR[recall], norm_dash(norm), "").line


def accuracy_figure(runs: Sequence[Run]) -> bytes:
    """Return accuracy against iterations, a panel for each split, with the iterations of training shaded, as a PNG file.

    Args:
        runs: runs of one study, each of which is a line.
    """
    splits = dict.fromkeys(split for run in runs for split in run.accuracy)
    figure, _ = draw_panels([_curves(runs, split) for split in splits], columns=3)
    add_legend(figure, [line_handle(style) for style in _styles(runs)])
    return png(figure)


def _styles(runs: Sequence[Run]) -> list[Style]:
    """Return the legend: the recalls by colour, then the normalizations by dash and mark."""
    recalls, norms = ({run.choice[place] for run in runs} for place in (0, 1))
    return [
        *(Style(recall_name(recall), COLOUR[recall], "", "o") for recall in RECALLS if recall in recalls),
        *(Style(norm, INK, norm_dash(norm), MARK[norm]) for norm in NORMS if norm in norms),
    ]


def radius_figure(runs: Sequence[Run]) -> bytes:
    """Return the figure of one study as a PNG file: both radii against accuracy, and that of W_state over training if it was logged.

    Args:
        runs: runs of one study that were evaluated up to iteration 500.
    """
    panels = [
        _against(runs, lambda run: run.state_radius, "spectral radius of W_state"),
        _against(runs, lambda run: run.radius, "spectral radius of the Jacobian, median"),
    ]
    if any(run.training for run in runs):
        panels.append(_over_training(runs))
    figure, _ = draw_panels(panels)
    add_legend(figure, [mark_handle(style) for style in _styles(runs)])
    return png(figure)
