"""What a first-time reader finds on the pages: the task, its words, a solved problem, consistent colours, legible figures."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import examples_of_examinations as examples
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loopscope.cli import main
from loopscope.files import write_json
from loopscope.glossary import MEANINGS
from loopscope.models import build_model
from loopscope.reports.examination.figures import FIGURES
from loopscope.reports.examination.page import DECIDING, TONES
from loopscope.reports.kit.charts import Panel, coinciding, draw_panels, layered, share_limits, size_axis
from loopscope.reports.kit.markdown import markdown
from loopscope.reports.kit.page import STYLE, table
from loopscope.reports.kit.styles import styles_of
from loopscope.reports.run import UP, record_of, study_of, write_run_page
from loopscope.reports.solving import key_frames
from loopscope.reports.study.figures import orbit_panels, radius_panel, same_lines
from loopscope.reports.study.page import write_report
from loopscope.shipped import MODELS
from loopscope.stability import THRESHOLDS, Examination, Verdict
from loopscope.studies import StudyFolder
from loopscope.tasks.registry import about_task
from loopscope.tasks.text import Frame
from loopscope.training.run_folder import RunFolder, open_run

STUDY = """
title: A study
task: prefix-sums
data: {train_bits: 8, test_bits: [8, 16], strings: 60, test_strings: 20}
model: {width: 16, heads: 2}
training: {compile: false}
grid:
  model.recall: [internal, none]
  model.norm: [outer, pre]
"""


def words_of(page: Path) -> str:
    """Return a page without its markup."""
    said = re.sub(r"<(script|style)[ >].*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", said).split()))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose best run has an untrained model at hand."""
    folder = StudyFolder(tmp_path_factory.mktemp("studies") / "one")
    folder.path.mkdir()
    plan = examples.plan(folder.path, STUDY)
    records = examples.records(plan)
    best = plan.runs[0]
    run = open_run(folder.run(best.name).path, best.settings, resume=False)
    torch.manual_seed(0)
    build_model(best.settings.model).save_pretrained(run.model)
    for record in records.values():
        folder.ledger.append(record)
    write_report(plan, folder, records)
    return plan, folder, records


def test_a_report_begins_with_the_task_its_words_and_a_problem_being_solved(study):
    _, folder, _ = study
    page = words_of(folder.report)
    first_screen = page[: page.index("Accuracy against iterations")]
    assert about_task("prefix-sums") in first_screen
    for word in ("internal recall", "no recall", "outer normalization", "pre normalization"):
        assert f"{word} {MEANINGS[word]}" in first_screen
    assert "external recall" not in first_screen
    assert "One problem, answered by internal-outer." in first_screen
    assert re.search(
        r"the answer (has not changed since iteration \d+|changed in the last one|never changed)", first_screen
    )
    assert first_screen.count("bits 1101000111010110") >= 2
    shown = [int(number) for number in re.findall(r"iteration (\d+) bits", first_screen)]
    assert shown == sorted(set(shown))
    assert shown[0] == 1


def test_a_run_page_begins_with_the_same_and_leads_back(study):
    _, folder, records = study
    page = folder.run("internal-outer").report
    said = words_of(page)
    first_screen = said[: said.index("Three axes")]
    assert about_task("prefix-sums") in first_screen
    assert f"internal recall {MEANINGS['internal recall']}" in first_screen
    assert "One problem, answered by internal-outer." in first_screen
    assert "Accuracy against iterations" in first_screen
    for name in records:
        source = folder.run(name).report.read_text()
        assert source.count(f'<a href="{UP}">') == 2
    assert (page.parent / UP).resolve() == folder.report.resolve()


def test_without_its_model_a_run_says_why_it_solves_nothing(study):
    _, folder, _ = study
    assert "No problem is shown being solved, because the model of none-pre cannot be asked: " in words_of(
        folder.run("none-pre").report
    )


def test_a_run_belongs_to_a_study_only_inside_one(study, tmp_path):
    _, folder, _ = study
    assert study_of(folder.run("internal-outer")) == UP
    assert study_of(RunFolder(tmp_path / "runs" / "alone")) is None


def test_evaluating_a_run_writes_its_page(study, capsys):
    _, folder, _ = study
    run = folder.run("internal-outer")
    assert main(["evaluate", str(run.path), "--iterations", "4", "--examples", "4"]) == 0
    assert run.report.is_file()
    said = words_of(run.report)
    assert "Accuracy against iterations" in said
    assert "Not examined yet" in said
    write_json(run.examination, {})
    assert main(["evaluate", str(run.path), "--iterations", "5", "--examples", "4"]) == 0
    assert "not written" in capsys.readouterr().err
    run.examination.unlink()


def test_the_verdict_of_a_run_follows_its_name(study):
    _, folder, _ = study
    source = folder.report.read_text()
    runs = source[source.index("<h2>All runs</h2>") :]
    columns = re.findall(r"<th[^>]*>([^<]*)</th>", runs[: runs.index("</thead>")])
    assert columns[:2] == ["run", "verdict"]
    assert "stable and accurate" in runs[: runs.index("</table>")]
    # What the verdicts mean stands below the table.
    assert MEANINGS["stable and accurate"] in words_of(folder.report)
    # Numbers scroll; names and verdicts wrap on narrow screens.
    assert "@media (max-width: 600px) { td.text { white-space: normal" in STYLE


def test_model_cards_are_shown_as_html(study):
    _, folder, _ = study
    page = folder.report.read_text()
    cards = page[page.index("<h2>Models that come with the package</h2>") : page.index("<h2>How to make it again</h2>")]
    for card in MODELS.glob("*/card.md"):
        source = card.read_text()
        assert source not in page
        for heading in re.findall(r"^## (.*)$", source, flags=re.MULTILINE):
            assert f"<h4>{heading}</h4>" in cards
    assert cards.count("<table>") == 1 + 2 * 3
    assert "|---" not in cards
    assert "## " not in cards


def test_markdown_cannot_bring_its_own_markup():
    drawn = markdown("# A\n\n<script>x</script> `b<c`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    assert "<script>" not in drawn
    assert "<h3>A</h3>" in drawn
    assert "<code>b&lt;c</code>" in drawn
    assert '<div class="scroll" tabindex="0"><table>' in drawn


def card_of(page: str, axis: str) -> str:
    begin = page.index(f'<section class="card"><h3>{axis}</h3>')
    return page[begin : page.index("</section>", begin)]


def saved(exam: Examination, folder: Path) -> str:
    return exam.save(folder / "exam.html").read_text()


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.usefixtures("undrawn")
def test_what_holds_is_green_only_below_a_green_verdict(verdict, tmp_path):
    page = saved(replace(examples.full(), verdict=verdict), tmp_path)
    card = card_of(page, "Geometry")
    assert ('class="chip holds"' in card) == (TONES[verdict] == "holds")
    assert ('class="holds"' in card) == (TONES[verdict] == "holds")
    if (decides := DECIDING.get(verdict)) is not None:
        assert f"holds, but {examples.full().axes[decides].name} decides" in card


@pytest.mark.usefixtures("undrawn")
def test_a_number_that_holds_on_an_axis_that_fails_is_not_green(tmp_path):
    exam = examples.partial()
    failing = replace(exam.axes[0], numbers={**exam.axes[0].numbers, "fraction of answers that stand": 1.0})
    page = saved(replace(exam, axes=(failing, *exam.axes[1:])), tmp_path)
    card = card_of(page, "Reachability")
    assert re.findall(r'<b class="(\w+)">', card) == ["fails", "quiet"]
    # The axes of directions decide nothing.
    directions = page[page.index("Directions of the state alone") : page.index("<h2>Figures</h2>")]
    assert "chip holds" not in directions


@pytest.mark.usefixtures("undrawn")
def test_thresholds_and_their_origin_stand_once_on_a_page(tmp_path):
    page = saved(examples.partial(), tmp_path)
    for axis in ("Reachability", "Input-dependence", "Geometry"):
        card = card_of(page, axis)
        assert "prior" not in card
        assert "≥" not in card
    assert page.count("priors: set by reasoning") == 1
    assert html.unescape(page).count(f"{THRESHOLDS['radius'].why.capitalize()}.") == 1


def drawn_labels(figure: Figure, axes: Axes, name: str) -> list:
    """Return the boxes of the tick labels that are seen on an axis."""
    axis = getattr(axes, f"{name}axis")
    low, high = sorted(axis.get_view_interval())
    margin = 1e-9 * abs(high - low)
    renderer = figure.canvas.get_renderer()
    ticks = [tick for tick in axis.get_major_ticks() if low - margin <= tick.get_loc() <= high + margin]
    return [tick.label1.get_window_extent(renderer) for tick in ticks if tick.label1.get_text()]


def overlaps(exam: Examination, title: str) -> int:
    """Return how many pairs of tick labels of a figure overlap."""
    chosen = next(figure for figure in FIGURES if figure.title == title)
    figure, (axes,) = draw_panels([chosen.panel(exam)])
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    pairs = 0
    for name in ("x", "y"):
        boxes = drawn_labels(figure, axes, name)
        assert len(boxes) >= 2
        pairs += sum(box.overlaps(other) for place, box in enumerate(boxes) for other in boxes[place + 1 :])
    return pairs


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4, 3e6])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_labels_of_an_orbits_axes_do_not_overlap(scale, shift):
    exam = examples.full()
    found = exam.portrait
    path, foreign = (np.array(rows) * scale + shift for rows in (found.path, found.foreign))
    moved = replace(found, path=path.tolist(), foreign=foreign.tolist(), fixed_point=[shift, shift])
    assert overlaps(replace(exam, portrait=moved), "Where does an orbit go?") == 0


@pytest.mark.parametrize("title", [figure.title for figure in FIGURES if "token" not in figure.title])
def test_labels_of_no_figure_overlap(title):
    chosen = next(figure for figure in FIGURES if figure.title == title)
    exams = [exam for exam in (examples.full(), examples.time_dependent(), examples.language()) if chosen.needs(exam)]
    assert exams
    assert [overlaps(exam, title) for exam in exams] == [0] * len(exams)


def test_labels_of_shared_axes_do_not_overlap():
    """Side by side, a curve of one power of ten has the limits of one of seven."""
    panels = [Panel(lambda axes, low=low: size_axis(axes, np.array([low, 5.0]))) for low in (1e-7, 1.0)]
    drawn = [draw_panels([panel]) for panel in panels]
    share_limits([axes for _, (axes,) in drawn])
    for figure, (axes,) in drawn:
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        boxes = drawn_labels(figure, axes, "y")
        assert len(boxes) >= 3
        assert not any(box.overlaps(other) for place, box in enumerate(boxes) for other in boxes[place + 1 :])


def captions(exam: Examination) -> dict[str, str]:
    return {figure.title: figure.caption_of([exam]) for figure in FIGURES if figure.needs(exam)}


def test_captions_name_only_what_is_drawn():
    full, partial = captions(examples.full()), captions(examples.partial())
    portrait = "Where does an orbit go?"
    assert "Star: the fixed point" in full[portrait]
    assert not re.search(r"\bstar\b", partial[portrait].lower())
    assert "random start" not in partial[portrait]
    assert "Shaded" in full["Does it arrive?"]
    assert "Shaded" not in partial["Does it arrive?"]  # its training is not known
    assert "Open marks" not in full["Eigenvalues of the Jacobian"]
    assert "Open marks" in partial["Eigenvalues of the Jacobian"]
    assert "× marks tokens that never do. Padding is blank." in full["When does each token settle?"]
    assert "Shared" not in full["Swap test"]
    both = next(figure for figure in FIGURES if figure.title == portrait)
    assert "Star" in both.caption_of([examples.partial(), examples.full()])


def test_lines_that_coincide_are_found():
    rising = np.linspace(0, 100, 500)
    curves = [rising, rising + 0.4, rising[::-1], np.full(500, 30.0), np.array([30.0])]
    assert coinciding(curves, (0, 100)) == [[0, 1], [3, 4]]
    assert coinciding([rising, rising + 2], (0, 100)) == []
    falling = 0.5 ** np.arange(40.0)
    assert coinciding([falling, 1.01 * falling, 2 * falling], (1e-12, 1), log=True) == [[0, 1]]
    assert coinciding([falling, falling[:20]], (1e-12, 1), log=True) == []
    assert coinciding([], (0, 1)) == []


def test_lines_that_coincide_are_drawn_visibly_and_named(study):
    plan, _, records = study
    shown = [records[name] for name in ("internal-outer", "none-outer", "none-pre")]
    same = [replace(record, examination=shown[0].examination) for record in shown]
    _, axes = draw_panels(orbit_panels(same, styles_of(plan), 30))
    for panel in axes:
        widths = [line.get_linewidth() for line in panel.get_lines()]
        assert widths == sorted(widths, reverse=True)
        assert len(set(widths)) == 3
    said = same_lines(axes)
    assert "relative residual: internal + outer, none + outer, none + pre" in said
    different = [records[name] for name in ("internal-outer", "none-pre")]
    assert same_lines(draw_panels(orbit_panels(different, styles_of(plan), 30))[1]) == ""


def test_marks_in_one_place_are_all_seen(study):
    plan, _, records = study
    one = records["internal-outer"]
    several = [replace(one, run=name) for name in ("internal-outer", "none-outer", "none-pre")]
    _, (axes,) = draw_panels([radius_panel(several, styles_of(plan))])
    sizes = [line.get_markersize() for line in axes.get_lines()[:3]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert layered(1, 1.5, 4.0) == [1.5]


def frame(iteration: int, changed: bool) -> Frame:
    since = torch.tensor([iteration if changed else 0])
    return Frame(iteration, torch.zeros(1, 2), since, 0.1, 0.1)


def test_telling_frames_are_the_first_the_last_and_some_that_changed():
    seen = [frame(iteration, changed=iteration in (3, 5)) for iteration in range(1, 31)]
    assert [one.iteration for one in key_frames(seen)] == [1, 3, 5, 30]
    restless = [frame(iteration, changed=True) for iteration in range(1, 31)]
    assert [one.iteration for one in key_frames(restless, most=4)] == [1, 2, 29, 30]
    assert [one.iteration for one in key_frames(seen[:1])] == [1]


def test_a_table_of_one_text_column_wraps_it():
    assert '<td class="text wrap">a</td>' in table(["name", "n"], [["a", 1]], texts=("name",))


def test_a_run_of_its_own_has_no_way_back(study, tmp_path):
    _, folder, _ = study
    run = folder.run("internal-outer")
    write_run_page(tmp_path / "page.html", run, record_of(run), None)
    assert UP not in (tmp_path / "page.html").read_text()
