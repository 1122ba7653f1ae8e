"""A comparison of early-exit rules as a table, a figure and a page."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes

from loopscope.files import write_json, write_text
from loopscope.reports.kit.charts import (
    COLOURS,
    INK,
    SHADE,
    Panel,
    draw_panels,
    iteration_axis,
    percent_axis,
    svg,
    tidy,
)
from loopscope.reports.kit.formats import DASH, number, percent
from loopscope.reports.kit.page import capitalized, note, page, picture, table, text
from loopscope.reports.kit.sheet import Sheet
from loopscope.reports.kit.styles import DASHES, Style, legend, swatch
from loopscope.stability.early_exit.comparison import ExitComparison, RuleCurve, said

LOSSES = (0.0, 0.01, 0.05)
"""Losses of quality, against the best fixed number of iterations, for which the table gives the cheapest threshold."""
COLUMNS = ("rule", "AUC", "95%", *(f"iterations, {100 * loss:g} points lost" for loss in LOSSES))


def rule_styles(compared: ExitComparison) -> dict[str, Style]:
    """Return the style of each rule. A fixed number of iterations is drawn in ink."""
    names = [rule.name for rule in compared.rules if rule.name != "fixed"]
    found = {"fixed": Style("fixed", INK, "", "")}
    for place, name in enumerate(names):
        found[name] = Style(name, COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)], "")
    return found


def _best(compared: ExitComparison) -> float:
    return max(point.quality for rule in compared.rules for point in rule.points if rule.name == "fixed")


def rule_row(rule: RuleCurve, compared: ExitComparison) -> list[str]:
    """Return the cells of a rule: its area, and what it costs at each loss of quality.

    Args:
        rule: the rule.
        compared: the comparison that it belongs to.
    """
    best = _best(compared)
    area = DASH if rule.auc_low is None else f"{rule.auc_low:.3f}-{rule.auc_high:.3f}"
    cells = []
    for loss in LOSSES:
        point = rule.cheapest(best - loss - 1e-12)
        cells.append(DASH if point is None else f"{point.iterations:.1f} (at {said(point, rule.name)})")
    return [rule.name, number(rule.auc, 3), area, *cells]


def exits_sheet(name: str, compared: ExitComparison) -> Sheet:
    """Return a table with one row per rule: how well its score separates right from wrong, and what it costs to stop by it.

    Args:
        name: what was measured.
        compared: the comparison.
    """
    best = _best(compared)
    rows = [rule_row(rule, compared) for rule in compared.rules]
    rows.append(["oracle", DASH, DASH, f"{compared.oracle.iterations:.1f}", "", ""])
    caption = (
        f"{compared.measured}, {compared.units} {compared.unit}s, {compared.iterations} iterations; the best fixed number of "
        f"iterations gives {percent(best)}%, the oracle {percent(compared.oracle.quality)}%. Columns of points "
        "lost: mean iterations of the cheapest threshold that loses no more. AUC: how often a right answer has less doubt than "
        "a wrong one."
    )
    return Sheet(f"{name}: early exit", COLUMNS, rows, caption)


def exits_panel(compared: ExitComparison) -> Panel:
    """Return quality against mean iterations, one line per rule."""
    styles = rule_styles(compared)

    def draw(axes: Axes) -> None:
        if compared.trained_iterations:
            axes.axvspan(0, compared.trained_iterations, color=SHADE, alpha=0.18, lw=0)
        for rule in compared.rules:
            across, up = zip(*((point.iterations, 100 * point.quality) for point in rule.points), strict=True)
            axes.plot(across, up, lw=1.8, **styles[rule.name].line)
        axes.plot([compared.oracle.iterations], [100 * compared.oracle.quality], "*", c=INK, ms=11, clip_on=False)
        longest = max(point.iterations for rule in compared.rules for point in rule.points)
        iteration_axis(axes, math.ceil(longest))
        axes.set_xlim(0.9, 1.05 * longest)
        percent_axis(axes)
        label = "right, %" if compared.measured == "accuracy" else "as at the last iteration, %"
        tidy(axes, "mean iterations", label)

    return Panel(draw, width=6.4, height=4.0)


def write_exits(path: Path, compared: ExitComparison, title: str = "Early exit") -> None:
    """Write a comparison as a page (.html) or as JSON (any other ending).

    Args:
        path: the file.
        compared: the comparison.
        title: what was measured.
    """
    if path.suffix != ".html":
        write_json(path, compared.to_dict())
        return
    parts = [f"<h1>{text(title)}</h1>", "<h2>When should it stop?</h2>", *exits_parts(compared, title)]
    write_text(path, page(title, "\n".join(parts)))


def exits_parts(compared: ExitComparison, title: str) -> list[str]:
    """Return a comparison as parts of a page: the recommendation, the curves, and a table of the rules.

    Args:
        compared: the comparison.
        title: what was measured.
    """
    figure, _ = draw_panels([exits_panel(compared)])
    styles = rule_styles(compared)
    shown = [styles[rule.name] for rule in compared.rules]
    caption = (
        "Each line is a rule with all of its thresholds: how many iterations it takes on average, and how good the answers are "
        "when it stops. Up and to the left is better. The star is the oracle, which stops at the first good answer."
    )
    sheet = exits_sheet(title, compared)
    return [
        *(f"<p>{capitalized(line)}</p>" for line in str(compared).splitlines()),
        picture([svg(figure, "exits")], caption, legend=legend(shown, swatch)),
        table(sheet.columns, sheet.rows, ["rule"]),
        note(sheet.caption),
        table(
            ("rule", "when it stops"), [(rule.name, rule.meaning) for rule in compared.rules], ["rule", "when it stops"]
        ),
        *(note(f"Not compared: {reason}.") for reason in compared.absent),
    ]
