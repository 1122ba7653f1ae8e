"""The figure: what each option leaves of the accuracy in each cell, and when the flag of the watch is up."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from experiments.mending.effects import effects
from experiments.mending.runs import HORIZON, KEPT, Run
from experiments.mending.tables import named
from experiments.mending.watched import Watched
from loopscope.reports.kit.charts import COLOURS, INK, SHADE, Panel, draw_panels, png, tidy
from loopscope.reports.kit.styles import Style, add_legend, mark_handle

WIDTH, HEIGHT = 5.4, 5.6
MENDED, LOST = COLOURS[0], COLOURS[1]


def _options(rows: Sequence[Run]) -> Panel:
    found = effects(rows)

    def draw(axes: Axes) -> None:
        tidy(axes, f"left at iteration {HORIZON}, % of the baseline's easy accuracy", "", "Mending")
        axes.axvline(100 * KEPT, c=SHADE, lw=1)
        for place, effect in enumerate(reversed(found)):
            for shift, cell in enumerate(effect.cells):
                height = place + 0.5 * (shift / max(1, len(effect.cells) - 1) - 0.5)
                before, after = 100 * cell.base_left / cell.base_easy, 100 * cell.left / cell.base_easy
                axes.plot([before, after], [height, height], c=SHADE, lw=0.8)
                axes.plot([before], [height], "|", c=INK, ms=5)
                axes.plot([after], [height], "o", c=MENDED if cell.mended else LOST, ms=5, clip_on=False)
        labels = [f"{named(one)}\n{one.mended} of {len(one.cells)}" for one in reversed(found)]
        axes.set_yticks(range(len(found)), labels)
        axes.set_xlim(left=-3)

    return Panel(draw, WIDTH, HEIGHT)


def _flags(rows: Sequence[Watched]) -> Panel:
    some = sorted((row for row in rows if row.counts), key=lambda row: row.left / row.best)

    def draw(axes: Axes) -> None:
        tidy(axes, "share of training, %", "run, those that lose most on top", "Watching")
        for place, row in enumerate(reversed(some)):
            colour = LOST if row.collapses else MENDED
            for moment in row.moments:
                x = 100 * moment.step / row.moments[-1].step
                axes.plot([x], [place], "s" if moment.flagged else ".", c=colour, ms=5 if moment.flagged else 2)
        axes.set_yticks([])
        axes.set_xlim(0, 103)

    return Panel(draw, WIDTH, HEIGHT)


def figure(runs: Sequence[Run], watched: Sequence[Watched]) -> bytes:
    """Return the figure as a PNG file.

    Args:
        runs: rows of the comparison.
        watched: rows of the watched runs.
    """
    drawn, _ = draw_panels([_options(runs), _flags(watched)])
    handles = [
        Style("left: not mended; right: collapses", LOST, "", "o"),
        Style("left: mended; right: keeps its accuracy", MENDED, "", "o"),
        Style("left: baseline", INK, "", "|"),
        Style("right: flag up", INK, "", "s"),
    ]
    add_legend(drawn, [mark_handle(style) for style in handles])
    return png(drawn)
