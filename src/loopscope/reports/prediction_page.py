"""The page of a population: what was forecast and what the models did, the tables, and what they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from loopscope.files import write_bytes, write_text
from loopscope.reports.charts import draw_panels, png, svg
from loopscope.reports.page import note, page, picture, text
from loopscope.reports.prediction import analysis_tables, headline
from loopscope.reports.prediction_figure import (
    curve_handles,
    curve_panels,
    drawing,
    figure_handles,
    figure_panels,
)
from loopscope.reports.sheet import in_markdown, in_page
from loopscope.studies.population import Member
from loopscope.studies.prediction import Analysis

TITLE = "Does the framework predict?"
FORECASTS = (
    "Each mark is a model. Left: the probability of keeping its answers that was forecast from the iterations of training, by "
    "a rule fitted on other cells of the grid, against the share of its best easy accuracy that is left at the last iteration; "
    "above the line it holds. Right: the field's favourite signal, against accuracy on the hardest problems."
)
CURVES = (
    "Mean over learning rates, seeds and trained iterations. Shaded is the most of these: all else is extrapolation."
)
LIMITS = (
    "Small models: what holds for width 64 and one block need not hold for wider or deeper ones.",
    "Few tasks, and one of them makes most of the population: the table across tasks, where there is one, says how far a rule "
    "carries.",
    "A model that loses its answers after the last iteration that was run counts as holding.",
    "Cells of one recall and normalization that differ in their learning rate alone are different cells here: a rule may have "
    "seen a cell's neighbour.",
    "Intervals resample cells; they do not cover the choice of the numbers that predictors are made of.",
)


def figures(analysis: Analysis, members: Sequence[Member]) -> dict[str, Figure]:
    """Return the page's figures by the names of their files."""
    found = {"forecast": drawing(figure_panels(analysis), figure_handles(analysis))}
    for task in analysis.fates:
        own = [member for member in members if member.task == task]
        for name, hardest in (("easy", False), ("hardest", True)):
            found[f"{task}-{name}"] = drawing(curve_panels(own, hardest), curve_handles(own))
    return found


def _curves(members: Sequence[Member], task: str) -> str:
    own = [member for member in members if member.task == task]
    panels = [*curve_panels(own, False), *curve_panels(own, True)]
    norms = "".join(
        f'<span><b class="swatch" style="color:{line.get_color()}" aria-hidden="true">━</b>{text(line.get_label())}</span>'
        for line in curve_handles(own)
    )
    drawings = [svg(draw_panels([panel])[0], "accuracy against iterations") for panel in panels]
    return picture(drawings, CURVES, title=task, legend=f'<div class="legend">{norms}</div>')


def _page(analysis: Analysis, members: Sequence[Member]) -> str:
    drawings = [svg(draw_panels([panel])[0], "forecast against outcome") for panel in figure_panels(analysis)]
    marks = "".join(
        f'<span><b class="swatch" style="color:{mark.get_color()}" aria-hidden="true">●</b>{text(mark.get_label())}</span>'
        for mark in figure_handles(analysis)[: -len(analysis.fates)]
    )
    lines = "".join(f"<p>{text(line)}</p>" for line in headline(analysis).splitlines())
    return page(
        TITLE,
        "\n".join(
            [
                f"<h1>{TITLE}</h1>{lines}",
                picture(drawings, FORECASTS, legend=f'<div class="legend">{marks}</div>'),
                *map(in_page, analysis_tables(analysis)),
                "<h2>Accuracy against iterations</h2>",
                *(_curves(members, task) for task in analysis.fates),
                "<h2>What this does not show</h2>",
                *map(note, LIMITS),
            ]
        ),
    )


def write_analysis(folder: Path, analysis: Analysis, members: Sequence[Member]) -> list[Path]:
    """Write the page of a population, its tables as Markdown and its figures as PNG files; return what was written."""
    pictures: Mapping[str, Figure] = figures(analysis, members)
    written = [folder / "report.html", folder / "tables.md", *(folder / f"{name}.png" for name in pictures)]
    write_text(written[0], _page(analysis, members))
    write_text(written[1], "\n".join(map(in_markdown, analysis_tables(analysis))))
    for path, figure in zip(written[2:], pictures.values(), strict=True):
        write_bytes(path, png(figure))
    return written
