"""The figures of a population: which lines and marks are drawn for made-up models."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from experiments.prediction.analysis import analyse
from experiments.prediction.analysis.outcomes import Outcome
from experiments.prediction.population import Member, ThinCurve
from experiments.prediction.report.curves import curve_panels, curve_styles
from experiments.prediction.report.page import DOTTED, LEVELS, SHADED, THINNED, curves_caption, figures, write_analysis
from experiments.prediction.report.scatter import OUTCOME_COLOURS, figure_panels, figure_styles
from experiments.prediction.signals import FORECAST_KEPT
from experiments.prediction.tests.populations import (
    CANNOT_TELL,
    COLLAPSES,
    DEGRADED,
    ITERATIONS,
    KEEPS,
    RETAINED,
    UNLEARNED,
    baseline,
    curve,
    made,
    said,
)
from loopscope.reports.kit.charts import INK, SHADE, draw_panels
from loopscope.reports.kit.styles import NORMS, Style, norm_dash, norm_style


def trained(member: Member, iterations: int) -> Member:
    training = {**member.settings["training"], "max_iterations": iterations}
    return replace(member, settings={**member.settings, "training": training})


def thick(axes, style: Style) -> list[np.ndarray]:
    """Return what the thick lines of a style show."""
    return [
        np.asarray(line.get_ydata())
        for line in axes.get_lines()
        if line.get_color() == style.colour and line.get_linewidth() == 2 and line.get_linestyle() != "None"
    ]


def thin(axes) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata()) for line in axes.get_lines() if line.get_linewidth() < 1]


def test_every_model_is_drawn_behind_the_mean_of_its_kind():
    members = [made("a", RETAINED), made("b", DEGRADED, seed=1), made("c", UNLEARNED, norm="pre")]
    _, (axes,) = draw_panels(curve_panels(members, hardest=False))
    found = [100 * np.array(one.accuracy) for one in (RETAINED, DEGRADED, UNLEARNED)]
    np.testing.assert_allclose(thin(axes), found)
    np.testing.assert_allclose(thick(axes, norm_style("outer")), [(found[0] + found[1]) / 2])
    np.testing.assert_allclose(thick(axes, norm_style("pre")), [found[2]])
    assert axes.get_title(loc="left") == "internal recall, 3 models"
    (shade,) = axes.patches
    assert shade.get_width() == 20 - 1


def test_a_mean_covers_the_iterations_that_all_models_have():
    short = ThinCurve(100, ITERATIONS[:3], [0.0, 0.2, 0.4], 0.4, 20, 0.4, 0.0)
    _, (axes,) = draw_panels(curve_panels([made("a", RETAINED), made("b", short)], hardest=False))
    np.testing.assert_allclose(thick(axes, norm_style("outer")), [[5.0, 35.0, 70.0]])


def test_a_normalization_looks_the_same_in_every_task():
    """It has its own colour and mark, whatever other normalizations a task has."""
    several = [made(norm, RETAINED, norm=norm) for norm in NORMS]
    for members in (several, several[::-1], several[2:], several[:1]):
        own = [one.settings["model"]["norm"] for one in members]
        assert curve_styles(members) == [norm_style(norm) for norm in NORMS if norm in own]
        _, (axes,) = draw_panels(curve_panels(members, hardest=False))
        marks = {line.get_color(): line.get_marker() for line in axes.get_lines() if line.get_marker() != "None"}
        assert marks == {norm_style(norm).colour: norm_style(norm).mark for norm in own}


def test_panels_of_recalls_have_a_fixed_order():
    members = [made(recall, RETAINED, recall=recall) for recall in ("none", "external", "internal")]
    _, drawn = draw_panels(curve_panels(members, hardest=True))
    titles = [axes.get_title(loc="left").partition(",")[0] for axes in drawn]
    assert titles == ["internal recall", "external recall", "no recall"]
    assert [axes.get_ylabel() for axes in drawn] == ["hardest problems right, %"] * 3


def test_models_trained_with_different_iterations_are_never_averaged():
    members = [
        trained(made("a", RETAINED), 10),
        trained(made("b", RETAINED, seed=1), 10),
        trained(made("c", DEGRADED), 20),
        trained(made("d", UNLEARNED, norm="gru"), 20),
    ]
    shown = curve_styles(members)
    assert [style.label for style in shown] == [
        "trained with 10 iterations", "trained with 20 iterations", "outer", "gru",
    ]  # fmt: skip
    short, long, outer, gru = shown
    assert short.colour != long.colour
    assert [(style.colour, style.dash) for style in (outer, gru)] == [
        (SHADE, norm_dash("outer")), (SHADE, norm_dash("gru")),
    ]  # fmt: skip
    _, (axes,) = draw_panels(curve_panels(members, hardest=False))
    np.testing.assert_allclose(thick(axes, short), [100 * np.array(RETAINED.accuracy)])
    np.testing.assert_allclose(thick(axes, long), [100 * np.array(one.accuracy) for one in (DEGRADED, UNLEARNED)])
    assert not axes.patches  # there is no single range of training
    dots = [(*line.get_xdata(), *line.get_ydata()) for line in axes.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(sorted(dots), [(10, 50.0), (20, 20.0), (20, 100.0)])


def test_fixed_depth_is_a_horizontal_line_in_each_panel_of_its_task():
    deep = [baseline(curve(*[one] * 8), 0.1) for one in (0.9, 0.5)]
    members = [made("a", RETAINED), made("b", RETAINED, recall="external"), *deep]
    assert [style.label for style in curve_styles(members)] == ["outer", "fixed depth, 15 blocks"]
    _, drawn = draw_panels(curve_panels(members, hardest=False))
    assert len(drawn) == 2
    for axes in drawn:
        levels = [line for line in axes.get_lines() if line.get_color() == INK]
        assert [line.get_ydata()[0] for line in levels] == pytest.approx([90.0, 50.0, 70.0])
        (label,) = axes.texts
        assert " ".join(label.get_text().split()) == "fixed depth, 15 blocks"
        assert label.get_position()[1] == pytest.approx(70.0)
    _, drawn = draw_panels(curve_panels(members[:2], hardest=False))
    assert not [line for axes in drawn for line in axes.get_lines() if line.get_color() == INK]


def test_low_accuracies_fill_their_axis():
    _, (axes,) = draw_panels(curve_panels([made("a", curve(*[0.31] * 8))], hardest=False))
    assert axes.get_ylim() == pytest.approx((-1.2, 41.2))
    _, (axes,) = draw_panels(curve_panels([made("a", RETAINED)], hardest=False))
    assert axes.get_ylim() == (-3, 103)


@pytest.fixture(scope="module")
def population() -> list[Member]:
    return [
        made("a", RETAINED, 0.9, **{**said(KEEPS), FORECAST_KEPT: 0.95}),
        made("b", RETAINED, 0.2, seed=1, **{**said(COLLAPSES), FORECAST_KEPT: 0.96}),
        made("c", DEGRADED, norm="pre", task="chess", **{**said(COLLAPSES), FORECAST_KEPT: 0.3}),
        made("d", UNLEARNED, norm="pre", **{**said(COLLAPSES), FORECAST_KEPT: 0.4}),
        made("u", RETAINED, 0.9, seed=2, **{**said(CANNOT_TELL), FORECAST_KEPT: 0.97}),
        made("e", RETAINED, rate=3e-3),
        made("f", None),
        baseline(RETAINED, 0.1),
    ]


def test_forecasts_are_drawn_as_they_are(population):
    """They are not fitted probabilities. Undecided models are hollow, and models without a forecast are not drawn. A dark edge
    marks a cycle, which is right at the last iteration and said to collapse."""
    _, drawn = draw_panels(figure_panels(analyse(population), population), columns=2)
    (axes,) = [axes for axes in drawn if axes.get_title(loc="left").startswith("Forecast")]
    assert axes.get_title(loc="left") == "Forecast, 5 models, 1 undecided"
    points = {
        (round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6)): line
        for line in axes.get_lines()
        if line.get_linestyle() == "None"
    }
    assert set(points) == {(95, 100), (96, 100), (97, 100), (30, 0), (40, 50)}
    colours = [points[place].get_color() for place in ((95, 100), (96, 100), (30, 0), (40, 50))]
    assert colours == [OUTCOME_COLOURS[outcome] for outcome in list(Outcome)[:4]]
    hollow = {place for place, line in points.items() if line.get_markerfacecolor() == "none"}
    assert hollow == {(97, 100)}
    assert {place for place, line in points.items() if line.get_markeredgecolor() == INK} == {(96, 100)}
    assert points[30, 0].get_marker() != points[95, 100].get_marker() == points[40, 50].get_marker()
    lines = [line for line in axes.get_lines() if line.get_linestyle() == "-"]
    assert sorted((*line.get_xdata(), *line.get_ydata()) for line in lines) == [(0, 1, 90, 90), (90, 90, 0, 1)]


def test_the_legend_names_every_outcome_and_task(population):
    shown = figure_styles(analyse(population))
    assert [style.label for style in shown] == [
        "extrapolates", "retains", "degrades", "not learned", "prefix-sums", "chess",
    ]  # fmt: skip
    assert len({style.mark for style in shown[4:]}) == 2


def test_the_page_shows_marks_of_tasks_and_explains_curves(population, tmp_path):
    write_analysis(tmp_path, analyse(population), population)
    page = (tmp_path / "report.html").read_text()
    legends = [re.sub("<[^>]*>", "", one) for one in re.findall(r'<div class="legend">(.*?)</div>', page)]
    assert legends[0] == "●extrapolates●retains●degrades●not learned●prefix-sums■chess"
    assert legends[1:] == ["●outer■prefixed depth, 15 blocks", "■pre"]
    assert page.count(THINNED) == 2


def test_the_caption_describes_the_curves():
    same, other = made("a", RETAINED), trained(made("b", RETAINED), 5)
    assert SHADED in curves_caption([same])
    assert LEVELS not in curves_caption([same])
    assert LEVELS in curves_caption([same, baseline(RETAINED, 0.1)])
    assert DOTTED in curves_caption([same, other])
    assert SHADED not in curves_caption([same, other])


def test_files_are_named_by_task(population):
    assert list(figures(analyse(population), population)) == [
        "forecast", "prefix-sums-easy", "prefix-sums-hardest", "chess-easy", "chess-hardest",
    ]  # fmt: skip
