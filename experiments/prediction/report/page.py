"""The page of a population: forecasts against what the models did, all tables, and the limits of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.prediction.analysis import Analysis
from experiments.prediction.population import ALL_UP_TO, LATER_POINTS, Member
from experiments.prediction.report.curves import curve_panels, curve_styles
from experiments.prediction.report.scatter import figure_panels, figure_styles
from experiments.prediction.report.tables import analysis_tables, summary
from loopscope.files import write_bytes, write_text
from loopscope.reports.kit.charts import draw_panels, png, svg
from loopscope.reports.kit.page import note, page, picture, text
from loopscope.reports.kit.sheet import in_markdown, in_page
from loopscope.reports.kit.styles import add_legend, legend, mark_handle, mark_swatch, marked_line_handle, marked_swatch

TITLE = "Does the framework predict?"
FORECASTS = (
    "Each mark is a model. The first two panels show the probability that a model retains its accuracy, against the share of "
    "its best easy accuracy that is left at the last iteration. The probability comes from a rule fitted on other "
    "configurations: from all three axes after the iterations of training, and from residuals and restarts after 30. Models "
    "above the line retain their accuracy. The third panel shows the share of the accuracy that the forecast expects to be left, "
    "for which nothing is fitted. Right of the vertical line it says that answers are kept, and left of it that they are lost. "
    "Hollow marks are models of which it cannot tell. Marks with a dark edge are models of which it says the opposite of their "
    "place, because their answers oscillate. In the shaded areas all other forecasts are wrong. "
    "Grey marks are models that did not learn their task. The fourth panel shows the spectral radius of W_state, which the "
    "field often reads, against accuracy on the hardest problems."
)
CURVES = "Thin lines are models, of any learning rate and seed. Thick lines are means over models of the same kind."
SHADED = "Training used the shaded iterations. All later ones are extrapolation."
DOTTED = (
    "Colours show the largest number of iterations in training, dashes the normalization. The dot marks that number on each "
    "line. All later iterations are extrapolation."
)
LEVELS = "Horizontal lines are models of fixed depth, which have a single accuracy."
THINNED = (
    f"Every iteration up to {ALL_UP_TO} is drawn, and about {LATER_POINTS} points after it. The curve of a model that "
    "oscillates from one iteration to the next is aliased there: its range is right, its rhythm is not."
)
LIMITS = (
    "The models are small. What holds for width 64 and one block need not hold for wider or deeper models.",
    "There are few tasks, and one of them provides most of the population. The table of transfer between tasks shows how far "
    "a rule carries.",
    "A model whose accuracy degrades after the last iteration counts as retaining it.",
    "Configurations of one recall and normalization that differ only in their learning rate count as different. A rule may "
    "have seen the neighbour of a configuration.",
    "Intervals resample configurations. They do not cover the choice of the numbers that predictors are made of.",
)


def figures(analysis: Analysis, members: Sequence[Member]) -> dict[str, Figure]:
    """Return the figures of the page by the names of their files."""
    figure, _ = draw_panels(figure_panels(analysis, members), columns=2)
    add_legend(figure, list(map(mark_handle, figure_styles(analysis))))
    found = {"forecast": figure}
    for task in analysis.outcomes:
        own = [member for member in members if member.task == task]
        for name, hardest in (("easy", False), ("hardest", True)):
            figure, _ = draw_panels(curve_panels(own, hardest))
            add_legend(figure, list(map(marked_line_handle, curve_styles(own))))
            found[f"{task}-{name}"] = figure
    return found


def curves_caption(members: Sequence[Member]) -> str:
    """Return the caption of the curves of one task's models."""
    looped = [member for member in members if member.looped]
    trained = DOTTED if len({member.trained_iterations for member in looped}) > 1 else SHADED
    levels = [LEVELS] if len(looped) < len(members) else []
    return " ".join([CURVES, trained, *levels, THINNED])


def _curves(members: Sequence[Member], task: str) -> str:
    own = [member for member in members if member.task == task]
    panels = [*curve_panels(own, False), *curve_panels(own, True)]
    drawings = [svg(draw_panels([panel])[0], "accuracy against iterations") for panel in panels]
    return picture(drawings, curves_caption(own), title=task, legend=legend(curve_styles(own), marked_swatch))


def _page(analysis: Analysis, members: Sequence[Member]) -> str:
    panels = figure_panels(analysis, members)
    drawings = [svg(draw_panels([panel])[0], "forecast against outcome") for panel in panels]
    lines = "".join(f"<p>{text(line)}</p>" for line in summary(analysis).splitlines())
    return page(
        TITLE,
        "\n".join(
            [
                f"<h1>{TITLE}</h1>{lines}",
                picture(drawings, FORECASTS, legend=legend(figure_styles(analysis), mark_swatch)),
                *map(in_page, analysis_tables(analysis)),
                "<h2>Accuracy against iterations</h2>",
                *(_curves(members, task) for task in analysis.outcomes),
                "<h2>What this does not show</h2>",
                *map(note, LIMITS),
            ]
        ),
    )


def write_analysis(folder: Path, analysis: Analysis, members: Sequence[Member]) -> list[Path]:
    """Write the page of a population, its tables as Markdown and its figures as PNG files; return the files."""
    pictures: Mapping[str, Figure] = figures(analysis, members)
    written = [folder / "report.html", folder / "tables.md", *(folder / f"{name}.png" for name in pictures)]
    write_text(written[0], _page(analysis, members))
    write_text(written[1], "\n".join(map(in_markdown, analysis_tables(analysis))))
    for path, figure in zip(written[2:], pictures.values(), strict=True):
        write_bytes(path, png(figure))
    return written
