"""The page of a population: what was forecast and what the models did, the tables, and what they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from loopscope.files import write_bytes, write_text
from loopscope.reports.kit.charts import draw_panels, png, svg
from loopscope.reports.kit.page import note, page, picture, text
from loopscope.reports.kit.sheet import in_markdown, in_page
from loopscope.reports.kit.styles import add_legend, legend, mark_handle, mark_swatch, marked_line_handle, marked_swatch
from loopscope.reports.prediction import analysis_tables, headline
from loopscope.reports.prediction_curves import curve_looks, curve_panels
from loopscope.reports.prediction_figure import figure_looks, figure_panels
from loopscope.studies.population import ALL_UP_TO, LATER_POINTS, Member
from loopscope.studies.prediction import Analysis

TITLE = "Does the framework predict?"
FORECASTS = (
    "Each mark is a model. The first two panels: the probability of keeping its answers, by a rule fitted on other cells of the "
    "grid, forecast by all three axes from the iterations of training and by a brief look from 30, against the share of its "
    "best easy accuracy that is left at the last iteration; above the line it holds. The third, of models that leaps were not "
    "made on: the share that leaps from 30 iterations forecast to be left, for which nothing is fitted. Right of the upright line "
    "loopscope forecast says that answers are kept, but for open marks, which it sees swing; where it is shaded, that is wrong. "
    "Grey marks are of models "
    "that never learned their task. The fourth: the field's favourite signal, against accuracy on the hardest problems."
)
CURVES = "Thin: each model, of any learning rate and seed. Thick: the mean of those that look alike."
SHADED = "Shaded is what training used: all else is extrapolation."
DOTTED = (
    "Colours say how many iterations training used at most, dashes the normalization; the dot is where these iterations end: "
    "all after it is extrapolation."
)
LEVELS = "Level across: models of fixed depth, which have one accuracy."
THINNED = (
    f"Every iteration is drawn up to {ALL_UP_TO}, later ones at some {LATER_POINTS} points alone: the curve of a model that swings "
    "from one iteration to the next is aliased there. Its range can be read off, its rhythm cannot."
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
    figure, _ = draw_panels(figure_panels(analysis, members), columns=2)
    add_legend(figure, list(map(mark_handle, figure_looks(analysis))))
    found = {"forecast": figure}
    for task in analysis.fates:
        own = [member for member in members if member.task == task]
        for name, hardest in (("easy", False), ("hardest", True)):
            figure, _ = draw_panels(curve_panels(own, hardest))
            add_legend(figure, list(map(marked_line_handle, curve_looks(own))))
            found[f"{task}-{name}"] = figure
    return found


def curves_caption(members: Sequence[Member]) -> str:
    """Return how to read the curves of one task's models."""
    looped = [member for member in members if member.looped]
    trained = DOTTED if len({member.trained_iterations for member in looped}) > 1 else SHADED
    levels = [LEVELS] if len(looped) < len(members) else []
    return " ".join([CURVES, trained, *levels, THINNED])


def _curves(members: Sequence[Member], task: str) -> str:
    own = [member for member in members if member.task == task]
    panels = [*curve_panels(own, False), *curve_panels(own, True)]
    drawings = [svg(draw_panels([panel])[0], "accuracy against iterations") for panel in panels]
    return picture(drawings, curves_caption(own), title=task, legend=legend(curve_looks(own), marked_swatch))


def _page(analysis: Analysis, members: Sequence[Member]) -> str:
    panels = figure_panels(analysis, members)
    drawings = [svg(draw_panels([panel])[0], "forecast against outcome") for panel in panels]
    lines = "".join(f"<p>{text(line)}</p>" for line in headline(analysis).splitlines())
    return page(
        TITLE,
        "\n".join(
            [
                f"<h1>{TITLE}</h1>{lines}",
                picture(drawings, FORECASTS, legend=legend(figure_looks(analysis), mark_swatch)),
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
