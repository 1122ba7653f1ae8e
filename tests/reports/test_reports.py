from __future__ import annotations

import re
import struct
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import get_args

import examples_of_examinations as examples
import numpy as np
import pytest
from matplotlib.figure import Figure

from loopscope.models.config import NormName, RecallName
from loopscope.reports.examination.figures import FIGURES, board_shape
from loopscope.reports.examination.page import missing_rows, write_comparison
from loopscope.reports.examination.quantities import quantity_rows
from loopscope.reports.kit.charts import INK, ORDERED, Panel, draw_panels, ordered_colours, share_limits, size_axis, svg
from loopscope.reports.kit.page import Html, table, text
from loopscope.reports.kit.styles import NORMS, RECALLS, norm_dash, norm_style, styles_of
from loopscope.reports.run import UP
from loopscope.reports.study.figures import accuracy_panels, middle, orbit_panels, radius_panel
from loopscope.reports.study.interactive import explore_figure
from loopscope.reports.study.page import headline, write_report
from loopscope.reports.study.table import study_table
from loopscope.shipped import MODELS
from loopscope.stability import THRESHOLDS
from loopscope.stability.nonautonomous.examination import UNDEFINED
from loopscope.studies import Record, StudyFolder

SMALL = """
title: "Prefix <sums> & more"
task: prefix-sums
data: {train_bits: 32, test_bits: [32, 512]}
model: {width: 16, heads: 2, norm: outer}
grid:
  model.recall: [none, external, internal]
  training.seed: [0, 1]
also:
  - {model.architecture: fixed-depth, model.recall: none, model.blocks: 4}
"""
VOID = {"meta", "img", "br", "hr", "input", "link"}
ERROR = "loss is <nan> & lost; lower training.learning_rate"


class Page(HTMLParser):
    """What a browser would make of a page: elements that balance, ids, links, words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "data", "action"):
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words += data


def check_self_contained(page: Page) -> None:
    """Nothing is loaded but parts of the page itself and the study's own pages; every reference has its target."""
    assert "link" not in page.tags
    assert "@import" not in page.source.split("</style>")[0]
    outside = [link for link in page.loads if not link.startswith(("#", "runs/")) and link != UP]
    assert outside == []
    markup = re.sub(r"<script.*?</script>", "", page.source, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)", markup)) | {link[1:] for link in page.loads if link.startswith("#")}
    assert used <= set(page.ids)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    plan = examples.plan(folder, SMALL)
    records = examples.records(plan, failed="external-seed0", error=ERROR)
    del records["external-seed1"]
    # It failed in its examination: what it reached before is no result either.
    left = records["internal-seed0"].evaluation
    records["external-seed0"] = replace(records["external-seed0"], evaluation=left)
    report = write_report(plan, StudyFolder(folder), records)
    return folder, plan, records, Page(report)


def test_the_page_of_a_study_stands_alone(study):
    _, _, _, page = study
    check_self_contained(page)
    assert page.source.count("plotly.js v") == 1
    assert 'name="viewport"' in page.source
    assert "prefers-color-scheme: dark" in page.source


@pytest.mark.usefixtures("undrawn")
def test_without_plotly_the_page_of_a_study_says_how_to_get_its_figure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    plan = examples.plan(tmp_path, SMALL)
    page = Page(write_report(plan, StudyFolder(tmp_path / "study"), examples.records(plan)))
    check_self_contained(page)
    assert "plotly.js v" not in page.source
    said = "The figure to explore needs plotly, which was not installed: pip install &quot;loopscope[pages]&quot;"
    assert said in page.source


def test_the_page_of_a_study_names_the_models_that_ship(study):
    _, _, _, page = study
    for card in MODELS.glob("*/card.md"):
        assert f"loopscope solve {card.parent.name}" in page.words
        assert f"Card of the model for {card.parent.name}" in page.words
        assert f"{card.parent.name}: the shipped model" in page.words


def test_a_study_writes_its_pictures(study):
    folder, _, _, _ = study
    for name in ("accuracy", "residual", "radius"):
        image = (folder / "figures" / f"{name}.png").read_bytes()
        assert image[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", image[16:24])
        assert width > 600
        assert height > 400
    assert not list(folder.rglob("*.partial"))


def test_every_run_leads_to_its_own_page(study):
    folder, _, records, page = study
    links = [link for link in page.loads if link.startswith("runs/")]
    assert len(links) == sum(record.examination is not None for record in records.values()) == 4
    for link in links:
        assert (folder / link).is_file()


def test_a_failed_run_is_in_the_table_with_its_error_and_nowhere_else(study):
    folder, _, _, page = study
    assert f"failed: {ERROR}" in page.words
    assert "<nan>" not in page.source
    assert page.words.count("external-seed0") == 1
    # Its configuration has no curve, so that no legend names it.
    assert page.words.count("external") == page.words.count("external-seed") + page.words.count("external recall")
    assert not (folder / "runs" / "external-seed0" / "report.html").exists()


def test_the_page_says_how_to_make_it_again(study):
    _, plan, _, page = study
    assert f"loopscope study '{plan.source}'" in page.words
    for said in ("loopscope 0", "torch 2", "Python 3", "UTC", "train", "evaluate", "examine"):
        assert said in page.words.split("How to make it again")[1]
    assert "7 runs: 5 finished, 1 failed, 1 not done yet (external-seed1)" in page.words
    assert "Prefix <sums> & more" in page.words


def test_the_table_holds_the_records_numbers(study):
    _, _, records, _ = study
    columns, rows = study_table(records.values())
    assert columns[:4] == ["run", "32 bits %", "512 bits %", "best %"]
    assert all(len(row) == len(columns) for row in rows)
    cells = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    kept = cells["internal-seed0"]
    accuracy = records["internal-seed0"].evaluation["512 bits"]["answer_accuracy"]
    assert kept["512 bits %"] == f"{100 * accuracy[-1]:.1f}"
    assert kept["best %"] == f"{100 * max(accuracy):.1f}"
    assert kept["best at iteration"] == str(int(np.argmax(accuracy)) + 1)
    assert (kept["arrived %"], kept["spectral radius"], kept["verdict"]) == ("100.0", "0.850", "stable and accurate")
    assert cells["external-seed0"]["verdict"] == f"failed: {ERROR}"
    assert cells["external-seed0"]["training s"] == "12"
    assert cells["fixed-depth-none-blocks4"]["spectral radius"] == "–"


def test_a_radius_away_from_a_fixed_point_is_marked():
    exam = examples.partial().to_dict()
    record = Record("a", "finished", {}, {}, examination=exam)
    columns, (row,) = study_table([record])
    assert row[columns.index("spectral radius")] == "0.800*"


def test_the_headline_names_the_best_run_on_the_hardest_split(study):
    _, _, _, page = study
    said = "Best on 512 bits at iteration 500: internal-seed0 with 95.0% of answers right, trained with at most 30"
    assert said in page.words
    assert headline([]) == "No run has been evaluated yet."


def test_a_study_whose_runs_all_failed_still_has_a_report(tmp_path):
    plan = examples.plan(tmp_path, SMALL)
    settings = plan.runs[0].settings.to_dict()
    records = {run.name: Record(run.name, "failed", settings, {}, error="no memory") for run in plan.runs}
    page = Page(write_report(plan, StudyFolder(tmp_path), records))
    assert page.words.count("failed: no memory") == len(plan.runs)
    assert "svg" in page.tags  # the table's swatches
    assert not list((tmp_path / "figures").iterdir())


def test_seeds_look_alike_and_configurations_do_not(tmp_path):
    found = styles_of(examples.plan(tmp_path))
    assert found["none-pre-seed0"] == found["none-pre-seed1"]
    assert found["none-pre-seed0"].label == "none + pre"
    different = {(style.colour, style.dash) for style in found.values()}
    assert len(different) == 5
    assert found["none-pre-seed0"].colour == found["none-outer-seed0"].colour != found["internal-pre-seed0"].colour
    assert found["none-pre-seed0"].dash == found["internal-pre-seed0"].dash != found["none-outer-seed0"].dash
    assert found["fixed-depth-none-blocks4"].label == "fixed depth, 4 blocks"
    assert found["fixed-depth-none-blocks4"].colour == INK


def test_any_varied_settings_have_looks(tmp_path):
    grid = "task: prefix-sums\nmodel: {heads: 2}\ngrid:\n  training.learning_rate: [0.001, 0.002, 0.003]\n  model.width: [16, 32]"
    found = styles_of(examples.plan(tmp_path, grid + "\n  model.norm: [pre, outer]"))
    assert len(set(found.values())) == len({(style.colour, style.dash) for style in found.values()}) == 12
    assert next(iter(found.values())).label == "learning rate 0.001 + width 16 + pre"
    single = "task: prefix-sums\nname: one\nmodel: {heads: 2, width: 16}\ngrid: {training.seed: [0, 1]}"
    assert {style.label for style in styles_of(examples.plan(tmp_path, single)).values()} == {"one"}


@pytest.mark.parametrize("setting", ["recall", "norm"])
def test_a_recall_and_a_normalization_look_the_same_in_every_study(tmp_path, setting):
    """Whichever others a study has beside it, and in whatever order."""
    names = {"recall": RECALLS, "norm": NORMS}[setting]
    found: dict[str, set[str]] = {}
    for some in (names, names[::-1], names[1:], names[:1] + names[2:]):
        yaml = f"task: prefix-sums\nmodel: {{heads: 2}}\ngrid: {{model.{setting}: [{', '.join(some)}]}}"
        for style in styles_of(examples.plan(tmp_path, yaml)).values():
            found.setdefault(style.label, set()).add(style.colour)
    assert found.keys() == set(names)
    assert all(len(colours) == 1 for colours in found.values())
    assert len(set.union(*found.values())) == len(names)


def test_every_normalization_has_its_own_look_beside_a_recall_too(tmp_path):
    assert set(NORMS) == set(get_args(NormName))
    assert set(RECALLS) == set(get_args(RecallName))
    yaml = (
        "task: prefix-sums\nmodel: {heads: 2}\ngrid: {model.recall: [none, internal], model.norm: [peri, gru, outer]}"
    )
    found = styles_of(examples.plan(tmp_path, yaml))
    for norm in ("peri", "gru", "outer"):
        beside = found[f"none-{norm}"]
        assert (norm_dash(norm), norm_style(norm).mark) == (beside.dash, beside.mark)
    assert len({norm_style(norm) for norm in (*NORMS, "another")}) == len(NORMS) + 1


def test_the_middle_of_seeds_is_their_median_as_far_as_all_ran():
    curves = [np.array([1.0, 5.0, 9.0]), np.array([2.0, 1.0]), np.array([0.0, 3.0, 7.0, 8.0])]
    assert middle(curves).tolist() == [1.0, 3.0]


def lines(axes) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata()) for line in axes.get_lines()]


def test_accuracy_shows_every_seed_and_the_training_range(study):
    _, plan, records, _ = study
    shown = [records[name] for name in ("none-seed0", "none-seed1", "fixed-depth-none-blocks4")]
    _, axes = draw_panels(accuracy_panels(shown, styles_of(plan), 30))
    assert [panel.get_title(loc="left") for panel in axes] == ["32 bits", "512 bits"]
    drawn = lines(axes[1])
    first, second = (100 * np.array(one.evaluation["512 bits"]["answer_accuracy"]) for one in shown[:2])
    assert len(drawn) == 4  # two seeds, their median, the level of the baseline
    for line, expected in zip(drawn, (first, second, (first + second) / 2), strict=False):
        np.testing.assert_allclose(line, expected)
    np.testing.assert_allclose(drawn[3], 100 * shown[2].evaluation["512 bits"]["last"])
    assert axes[1].get_xscale() == "log"
    (shade,) = axes[1].patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (1, 30)


def test_orbits_and_radii_are_those_of_the_records(study):
    _, plan, records, _ = study
    kept = records["internal-seed0"]
    _, (residual, norm) = draw_panels(orbit_panels([kept], styles_of(plan), 30))
    np.testing.assert_allclose(lines(residual)[0], kept.exam.curves.residual[1])
    assert (residual.get_yscale(), norm.get_yscale()) == ("log", "linear")
    _, (radius,) = draw_panels([radius_panel([kept], styles_of(plan))])
    point = radius.get_lines()[0]
    assert point.get_xdata() == [pytest.approx(0.85)]
    assert point.get_ydata() == [pytest.approx(100 * kept.evaluation["512 bits"]["last"])]


def test_the_figure_to_explore_holds_the_same_values(study):
    _, plan, records, _ = study
    finished = [record for record in records.values() if record.status == "finished"]
    figure = explore_figure(finished, styles_of(plan), 30)
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert named == ["none", "internal", "fixed depth, 4 blocks"]
    assert len(figure.data) == 2 * 5
    expected = records["none-seed0"].evaluation["32 bits"]["answer_accuracy"]
    np.testing.assert_allclose(figure.data[0].y, 100 * np.array(expected), atol=0.006)
    assert figure.data[0].x0 == 1


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_the_page_of_an_examination(name, tmp_path):
    exam = examples.EXAMPLES[name]()
    page = Page(exam.save(tmp_path / "exam.html"))
    check_self_contained(page)
    order = [
        exam.verdict.value.capitalize(),
        exam.advice,
        "Three axes",
        "Figures",
        "Numbers",
        "could not be computed",
    ]
    places = [page.words.index(said) for said in order]
    assert all(before < after for before, after in pairwise(places))
    assert "(provisional)" in page.words
    for axis in exam.axes:
        assert axis.reason in page.words
        for measure in axis.numbers:
            sign = "≥" if THRESHOLDS[measure].larger_is == "better" else "≤"
            assert page.words.count(f"{sign} {THRESHOLDS[measure].holds:g}") >= 1
            assert page.words.count(f"{THRESHOLDS[measure].why.capitalize()}.") == 1
    assert page.words.count("priors: set by reasoning") == 1
    for part, reason in exam.unknown.items():
        assert part in page.words
        assert reason in page.words
    drawn = [figure for figure in FIGURES if figure.needs(exam)]
    assert page.tags.count("svg") == len(drawn)
    assert all(figure.caption in page.words for figure in drawn)


def test_what_is_drawn_of_a_full_a_partial_and_an_empty_examination():
    drawn = {
        name: [figure.title for figure in FIGURES if figure.needs(make())] for name, make in examples.EXAMPLES.items()
    }
    of_others = ["How many loops?", "Are answers kept?", "Do errors grow?"]
    assert drawn["full"] == [figure.title for figure in FIGURES if figure.title not in of_others]
    assert set(of_others[1:]) <= set(drawn["time-dependent"])
    assert "Eigenvalues of the Jacobian" not in drawn["time-dependent"]
    assert drawn["empty"] == []
    assert set(drawn["full"]) - set(drawn["partial"]) == {
        "Does the answer stay?",
        "Does it come back?",
        "Swap test",
        "Distinct fixed points",
        "Transient growth",
        "When does each token settle?",
    }


@pytest.mark.parametrize(("make", "filled"), [(examples.full, True), (examples.partial, False)])
def test_eigenvalues_away_from_a_fixed_point_are_open(make, filled):
    exam = make()
    figure = next(figure for figure in FIGURES if "Eigenvalues" in figure.title)
    _, (axes,) = draw_panels([figure.panel(exam)])
    dominant = axes.get_lines()[-1]
    assert (dominant.get_markerfacecolor() != "none") == filled
    drawn = np.abs(dominant.get_xdata() + 1j * dominant.get_ydata())
    np.testing.assert_allclose(drawn, np.tile(exam.spectrum.radius, 2))


def test_the_growth_of_errors_is_drawn_beside_the_radii_of_parts():
    exam = examples.time_dependent()
    figure = next(figure for figure in FIGURES if figure.title == "Do errors grow?")
    _, (axes,) = draw_panels([figure.panel(exam)])
    assert [line.get_label() for line in axes.get_lines()][-1] == "radius of A, a part of the step"
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), exam.nonautonomous.exponents.growth[1])


def test_a_page_says_what_kind_of_loop_it_is_about(tmp_path):
    exam = examples.time_dependent()
    page = Page(exam.save(tmp_path / "exam.html"))
    assert "Kind of loop: time-dependent and stochastic, since its step takes iteration and a generator" in page.words
    assert exam.kind.undefined in page.words
    assert "They were tested on" not in page.words, "its thresholds were not"
    for said in ("error growth per iteration", "radii of parts of the step", "noise of one step, relative"):
        assert said in page.words
    assert "Kind of loop" not in Page(examples.full().save(tmp_path / "full.html")).words


def test_nothing_is_missing_without_a_word():
    assert missing_rows(examples.full()) == []
    assert {part for part, _ in missing_rows(examples.time_dependent())} == set(UNDEFINED)
    missing = dict(missing_rows(examples.partial()))
    assert missing["smoothness"] == "no orbit arrived: it is defined at a fixed point"
    assert "figure: Does it come back?" in missing
    assert "figure: Distinct fixed points" not in missing  # its part says why


def test_an_examination_without_priors_is_not_called_provisional(tmp_path):
    exam = replace(examples.empty(), provisional=False, advice="<script>alert(1)</script>")
    page = Page(exam.save(tmp_path / "exam.html"))
    assert "Provisional:" not in page.words
    assert "(provisional)" not in page.words
    assert "<script>alert(1)</script>" in page.words
    assert "script" not in page.tags


@pytest.mark.usefixtures("undrawn")
def test_directions_have_axes_of_their_own(tmp_path):
    page = Page(examples.partial().save(tmp_path / "exam.html"))
    assert page.source.count("<h3>Reachability</h3>") == 2
    assert "Directions of the state alone" in page.words


def test_two_examinations_side_by_side(tmp_path):
    exams = {"runs/<a>": examples.full(), "runs/b": examples.partial()}
    write_comparison(tmp_path / "both.html", exams)
    page = Page(tmp_path / "both.html")
    check_self_contained(page)
    for title, exam in exams.items():
        assert title in page.words
        assert exam.advice in page.words
    full = sum(figure.needs(examples.full()) for figure in FIGURES)
    partial = sum(figure.needs(examples.partial()) for figure in FIGURES)
    assert page.tags.count("svg") == full + partial
    assert page.words.count("Not measured.") == full - partial


def test_figures_side_by_side_share_their_limits():
    axes = [draw_panels([Panel(lambda a, top=top: a.plot([1, top], [0, top]) and None)])[1][0] for top in (2, 7)]
    share_limits(axes)
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert axes[0].get_xlim()[1] >= 7
    logarithmic = Figure().subplots()
    logarithmic.set(yscale="log", ylim=(1e-8, 1e-3))
    share_limits([axes[0], logarithmic])
    assert logarithmic.get_ylim() == (1e-8, 1e-3)


def test_quantities_are_medians_over_inputs():
    rows = {row[0]: row for row in quantity_rows(examples.full())}
    assert rows["iterations to tolerance"][1:4] == ["47.5", "41.5 – 53.5", "16"]
    assert rows["norm of the state, end over start"][1] == "1.333"
    assert rows["largest transient growth"][1] == f"{2.4 * 0.8 * 1.175:.4g}"
    assert rows["nearly defective Jacobians"][1] == "1"
    assert "largest Lyapunov exponent" not in rows
    assert len(quantity_rows(examples.empty())) == 0


@pytest.mark.parametrize(
    ("tokens", "shape"), [(81, (9, 9)), (64, (8, 8)), (32, (1, 32)), (8, (1, 8)), (49, (2, 32)), (512, (16, 32))]
)
def test_tokens_make_a_board_or_a_strip(tokens, shape):
    assert board_shape(tokens) == shape


def test_a_token_map_shows_times_and_tokens_that_never_settled():
    exam = examples.full()
    figure = next(figure for figure in FIGURES if "token" in figure.title)
    _, (axes,) = draw_panels([figure.panel(exam)])
    settled = exam.tokens[0]
    written = [said.get_text() for said in axes.texts]
    assert written == ["×" if time < 0 else str(time) for time in settled if time]


def test_a_narrow_range_of_sizes_is_linear_and_a_wide_one_logarithmic():
    axes = Figure().subplots()
    size_axis(axes, np.array([10.0, 12.0, np.nan]))
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    size_axis(axes, np.array([1e-7, 0.0, 1.0]))
    assert axes.get_yscale() == "log"
    written = [axes.yaxis.get_major_formatter()(value, 0) for value in (1e-7, 0.01, 1, 200, 2e4)]
    assert written == ["10⁻⁷", "0.01", "1", "200", "2·10⁴"]
    size_axis(Figure().subplots(), np.array([np.nan]))


def test_a_drawing_takes_the_pages_colours_and_is_the_same_every_time():
    figure, _ = draw_panels([Panel(lambda axes: axes.set_title("a < b") and None)])
    drawing = svg(figure, "name")
    assert INK not in drawing
    assert "var(--ink)" in drawing
    assert "a &lt; b" in drawing
    assert drawing == svg(figure, "name")


def test_a_drawing_is_as_fine_as_a_screen_and_leaves_its_words_as_they_are():
    def draw(axes):
        axes.plot([0, 1, 2], [0, 1 / 3, 1 / 7])
        axes.set_title("0.00125 of 1")

    drawing = svg(draw_panels([Panel(draw)])[0], "name")
    digits = [len(found) for path in re.findall(r' d="([^"]*)"', drawing) for found in re.findall(r"\.(\d+)", path)]
    assert max(digits) == 2
    assert "0.00125 of 1" in drawing


def test_panels_fill_rows_and_what_is_left_stays_empty():
    panels = [Panel(lambda axes, name=name: axes.set_title(name) and None, 2 + name, 3) for name in range(3)]
    figure, axes = draw_panels(panels, columns=2)
    assert [one.get_title() for one in axes] == ["0", "1", "2"]
    assert figure.axes == axes
    assert tuple(figure.get_size_inches()) == (4 + 3, 6)
    figure.draw_without_rendering()
    first, second, third = (one.get_position() for one in axes)
    assert third.y1 < first.y0
    assert first.x1 < second.x0


def test_colours_of_numbers_in_order_are_as_many_as_asked_for_and_differ():
    for count in (1, 2, 6, 9):
        assert len(set(ordered_colours(count))) == count
    assert ordered_colours(6) == list(ORDERED)


def test_cells_are_escaped_once():
    drawn = table(["a", "b"], [["<i>", Html("<b>x</b>")]])
    assert "&lt;i&gt;" in drawn
    assert "<b>x</b>" in drawn
    assert text('"&"') == "&quot;&amp;&quot;"
