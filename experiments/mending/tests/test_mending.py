"""The counts, tables and stages of the experiment, from made-up rows, and one short run of each kind."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from matplotlib import image

from experiments.mending.__main__ import main
from experiments.mending.cells import PLAIN, RANDOM_COUNTS, TEST_TIME, Cell, options_at, pilot_options, settings_of
from experiments.mending.effects import effects
from experiments.mending.evidence import mending_of
from experiments.mending.runs import Run, curve, left, measured, read_runs, trained, validation
from experiments.mending.stages import (
    SECOND_CELLS,
    chosen_cells,
    chosen_strengths,
    comparison,
    fill,
    pilot,
    screening,
    second_comparison,
)
from experiments.mending.tables import all_tables, bought, by_cell, orbits, warnings, watched_runs
from experiments.mending.tables import pilot as pilot_table
from experiments.mending.watched import (
    EVERY,
    NEIGHBOURS,
    Moment,
    Watched,
    choices,
    final_rise,
    first_rise,
    read_watched,
    watched,
)
from loopscope.errors import LoopscopeError
from loopscope.evidence import mending, read_mending
from loopscope.files import append_line
from loopscope.reports.kit.sheet import in_markdown
from loopscope.tasks import Split
from loopscope.training.trainer import draw_counts

NORMS = ("pre", "peri", "outer", "sandwich", "gru")
STRENGTHS = {name.name: name.strength for name in pilot_options()} | {TEST_TIME: 0.5}


def run(cell, option="baseline", seed=1, easy=0.9, kept=0.5, stage="comparison", strength=None, seconds=10.0):
    orbits = {"cycle": 8} if option == "baseline" and stage == "comparison" else {}
    return Run(stage, cell, option, strength, seed, easy, easy, kept, {"6": easy}, seconds, orbits)


def test_a_cell_is_mended_where_the_easy_accuracy_of_its_baseline_is_left():
    """Four cells lose their accuracy and one keeps it; noise mends two, of which one costs easy accuracy."""
    cells = [Cell("internal", norm, 0.003) for norm in NORMS]
    rows = []
    for cell, base_left, noisy_easy, noisy_left in zip(
        cells, (0.5, 0.1, 0.2, 0.3, 0.9), (0.9, 0.82, 0.3, 0.9, 0.9), (0.85, 0.82, 0.3, 0.75, 0.1), strict=True
    ):
        for seed in (1, 2, 3):
            rows.append(run(cell, seed=seed, kept=base_left))
            rows.append(run(cell, "state noise", seed, noisy_easy, noisy_left, strength=0.3, seconds=15.0))
        rows.append(run(cell, TEST_TIME, 1, 0.2, 0.4, strength=0.5))
    noise, late = effects(rows)
    assert (noise.option, noise.mended, len(noise.cells), noise.works) == ("state noise", 2, 4, True)
    assert noise.left == pytest.approx((0.85 + 0.82 + 0.3 + 0.75) / 4)
    assert noise.bought == pytest.approx(noise.left - (0.5 + 0.1 + 0.2 + 0.3) / 4)
    assert noise.cost == pytest.approx((0 + 0.08 + 0.6 + 0) / 4)
    assert noise.time == pytest.approx(1.5)
    assert (late.mended, late.works, late.cells[0].seeds) == (0, False, 1)
    assert bought(rows).rows[0] == ["state noise 0.3", "2 of 4", "6 of 12", "28 → 68", "+40", "-17", "1.50"]
    table = by_cell(rows).rows
    assert table[0] == ["internal recall, pre, 0.003", "3", "90", "50", "85*", "40"]
    assert table[4][0].endswith("(keeps its accuracy)")
    record = mending_of(rows)
    assert (record.options[0].setting, record.options[0].mended, record.options[0].cells) == (
        "training.state_noise 0.3",
        2,
        4,
    )
    assert record.options[1].setting == "ls.damped(loop, 0.5)"


def test_means_over_seeds_decide_and_a_seed_without_its_baseline_is_left_out():
    cell = Cell("none", "gru", 0.006)
    rows = [run(cell, seed=1, kept=0.9), run(cell, seed=2, kept=0.0)]
    rows += [run(cell, "damping", seed, kept=0.9, strength=0.5) for seed in (1, 2, 3)]
    (effect,) = effects(rows)
    assert (effect.cells[0].seeds, effect.cells[0].base_left, effect.mended) == (2, 0.45, 1)


def test_runs_are_counted_where_the_baseline_has_learned_and_loses_its_accuracy():
    cell = Cell("internal", "gru", 0.003)
    rows = [run(cell, seed=1), run(cell, seed=2, easy=0.2, kept=0.0), run(cell, seed=3, kept=0.9)]
    rows += [run(cell, "state noise", seed, kept=0.85, strength=0.3) for seed in (1, 2, 3)]
    (effect,) = effects(rows)
    assert (effect.runs, effect.mended) == ((1, 1), 1)


def test_a_diverged_run_has_nothing_left_and_no_time():
    cell = Cell("internal", "pre", 0.006)
    rows = [run(cell), run(cell, seed=2), run(cell, "damping", 1, kept=0.9, seconds=20.0)]
    rows.append(replace(run(cell, "damping", 2, 0.0, 0.0, seconds=0.0), diverged="loss nan"))
    (effect,) = effects(rows)
    assert (effect.left, effect.cost, effect.time, effect.mended) == (0.45, 0.45, 2.0, 0)


def screened() -> list[Run]:
    """Ten pairs lose their accuracy at both rates, the better of which differs; one only with the first seed."""
    rows = []
    for number, (recall, norm) in enumerate((recall, norm) for recall in ("internal", "external") for norm in NORMS):
        for rate, easy in ((0.003, 0.8 + number / 100), (0.006, 0.95 if number == 3 else 0.76)):
            for seed in (100, 101):
                kept = easy if (number, seed, rate) == (9, 101, 0.003) else 0.1
                rows.append(run(Cell(recall, norm, rate), seed=seed, easy=easy, kept=kept, stage="screening"))
    for norm in NORMS:
        rows += [
            run(Cell("none", norm, rate), seed=100, easy=0.7, kept=0.0, stage="screening") for rate in (0.003, 0.006)
        ]
    return rows


def test_the_better_rate_of_each_pair_is_compared_and_the_best_pairs_first():
    found = chosen_cells(screened())
    assert found[0] == Cell("internal", "sandwich", 0.006)
    assert found[1:] == [
        Cell("external", "sandwich", 0.003),
        Cell("external", "outer", 0.003),
        Cell("external", "peri", 0.003),
        Cell("external", "pre", 0.003),
        Cell("internal", "gru", 0.003),
        Cell("internal", "outer", 0.003),
        Cell("internal", "peri", 0.003),
    ]
    with pytest.raises(
        LoopscopeError, match=r"^2 cells lose their accuracy with every seed of the screening, expected"
    ):
        chosen_cells([row for row in screened() if row.cell.recall == "internal" and row.cell.norm in ("pre", "none")])


def test_the_second_seed_is_for_cells_that_lose_their_accuracy_with_the_first():
    first = list(screening([]))
    assert (len(first), {task[3] for task in first}) == (30, {100})
    cell = Cell("none", "pre", 0.003)
    again = list(screening([run(cell, seed=100, stage="screening"), run(first[0][1], seed=100, kept=0.9)]))
    assert [task[1:] for task in again[30:]] == [(cell, PLAIN, 101, ())]


def test_the_pilot_chooses_the_strength_that_leaves_most_and_of_equal_ones_the_mildest():
    rows, cells = screened(), chosen_cells(screened())[:1]
    tasks = list(pilot(rows))
    assert [task[1] for task in tasks] == [cell for cell in cells for _ in range(len(pilot_options()) + 1)]
    for cell in cells:
        for option in pilot_options():
            better = (option.name, option.strength) in (("state noise", 0.3), ("jacobian penalty", 1.0))
            kept = 0.8 if better else 0.4
            rows.append(run(cell, option.name, 100, kept=kept, stage="pilot", strength=option.strength))
        rows += [run(cell, TEST_TIME, 100, kept=0.3, stage="pilot", strength=strength) for strength in (0.5, 0.25)]
    assert chosen_strengths(rows) == {
        "jacobian penalty": 1.0,
        "state noise": 0.3,
        "random starts": 0.5,
        "damping": 0.5,
        "residual scale": 0.5,
        TEST_TIME: 0.5,
    }
    tasks = list(comparison(rows))
    assert len(tasks) == 3 * 8 * 7
    assert {task[3] for task in tasks} == {1, 2, 3}
    assert [task[4] for task in tasks[:2]] == [(0.5,), ()]
    with pytest.raises(LoopscopeError, match="the pilot has no run"):
        chosen_strengths(screened())


def test_the_second_comparison_is_of_the_watched_runs_that_kept_least_with_a_milder_penalty(monkeypatch):
    rows = [row for row in read_watched() if row.counts]
    rows.sort(key=lambda row: row.left / row.best)
    least = {
        pair: next(row for row in rows if (row.cell.recall, row.cell.norm) == pair) for pair in choices(read_runs())
    }
    assert [row.cell for row in least.values()] == list(SECOND_CELLS)
    monkeypatch.setattr("experiments.mending.stages.chosen_strengths", lambda rows: STRENGTHS)
    tasks = list(second_comparison([]))
    assert len(tasks) == 3 * 3 * 7
    assert {task[2].strength for task in tasks if task[2].name == "jacobian penalty"} == {0.1}


def test_an_option_at_two_strengths_is_counted_twice():
    first, second = Cell("none", "pre", 0.003), Cell("external", "pre", 0.0043)
    rows = [run(first), run(second, stage="second comparison")]
    rows.append(run(first, "jacobian penalty", kept=0.0, strength=1.0))
    rows.append(run(second, "jacobian penalty", kept=0.9, strength=0.1, stage="second comparison"))
    found = [(one.option, one.strength, one.mended, len(one.cells)) for one in effects(rows)]
    assert found == [("jacobian penalty", 0.1, 1, 1), ("jacobian penalty", 1.0, 0, 1)]
    assert by_cell(rows).columns[4:] == ["jacobian penalty 0.1", "jacobian penalty 1"]


def test_loops_without_recall_get_no_random_starts(monkeypatch):
    cells = [Cell("none", "pre", 0.003), Cell("external", "pre", 0.003)]
    monkeypatch.setattr("experiments.mending.stages.chosen_cells", lambda rows: cells)
    monkeypatch.setattr("experiments.mending.stages.chosen_strengths", lambda rows: STRENGTHS)
    names = {cell: [task[2].name for task in comparison([]) if task[1] == cell and task[3] == 1] for cell in cells}
    assert set(names[cells[1]]) - set(names[cells[0]]) == {"random starts"}


def test_the_baseline_has_a_fixed_number_of_iterations_and_each_option_sets_one_thing():
    cell = Cell("external", "peri", 0.006)
    base = settings_of(cell, PLAIN, 1)
    counts = {(draw_counts(base.training, step).free, draw_counts(base.training, step).gradient) for step in range(20)}
    assert counts == {(0, 6)}
    drawn = settings_of(cell, RANDOM_COUNTS, 1).training
    assert len({draw_counts(drawn, step) for step in range(20)}) > 5
    for option in options_at(STRENGTHS):
        plain, other = base.to_dict(), settings_of(cell, option, 1).to_dict()
        changed = {
            f"{section}.{name}"
            for section in ("model", "training")
            for name in {**plain[section], **other[section]}
            if plain[section].get(name) != other[section].get(name)
        }
        given = {f"model.{name}" for name in option.model} | {f"training.{name}" for name in option.training}
        assert changed == given - {"training.sampler"}


def test_a_run_is_trained_and_measured_and_its_model_damped(tmp_path):
    cell = Cell("external", "outer", 0.003)
    plain, late = measured("screening", cell, PLAIN, 7, late=(0.5,), steps=3)
    assert (plain.option, late.option, late.strength) == ("baseline", TEST_TIME, 0.5)
    assert plain.seconds == late.seconds > 0
    assert 0 <= plain.left <= plain.best <= 1
    assert plain.accuracy["6"] == plain.easy
    again, _ = measured("screening", cell, PLAIN, 7, late=(0.5,), steps=3)
    assert replace(again, seconds=plain.seconds) == plain


def test_a_ledger_is_filled_once_and_read_back(tmp_path, monkeypatch):
    path, cell, done = tmp_path / "runs.jsonl", Cell("none", "pre", 0.003), []

    def quick(stage, cell, option, seed, late, steps):
        done.append((cell, seed))
        assert steps == 500
        return [run(cell, option.name, seed, kept=0.2, stage=stage)]

    monkeypatch.setattr("experiments.mending.stages.measured", quick)
    monkeypatch.setattr("experiments.mending.stages.cells", lambda: [cell])
    rows = list(fill(path, ["screening"]))
    assert done == [(cell, 100), (cell, 101)]
    assert read_runs(path) == rows
    assert list(fill(path, ["screening"])) == []
    path.write_text('{"stage": 1}\n')
    with pytest.raises(LoopscopeError, match="line 1 is not a run"):
        read_runs(path)


def moment(step, up, kept=1.0):
    return Moment(step, 0.9, {"360": "collapses" if up else "keeps"}, up, 0.2, kept, 0.1)


def watched_row(cell, kept, ups, rival=(1.0, 1.0, 1.0, 1.0), easy=0.9):
    moments = [moment(25 * (place + 1), up, value) for place, (up, value) in enumerate(zip(ups, rival, strict=True))]
    return Watched(cell, 200, easy, 0.9, kept, {"6": easy}, 8.0, moments)


def test_a_flag_rises_first_and_for_good():
    flags = [False, True, False, True, True]
    assert (first_rise(flags), final_rise(flags)) == (1, 3)
    assert (first_rise([False]), final_rise([True, False]), final_rise([True, True])) == (None, None, 0)
    assert left([1.0, *[0.3] * 484, *[0.5] * 15, 0.4]) == 0.4


def test_warnings_are_counted_on_runs_that_learned():
    cells = [Cell("internal", "pre", rate) for rate in NEIGHBOURS]
    rows = [
        watched_row(cells[0], 0.1, (False, True, True, True), (1.0, 0.5, 0.5, 0.5)),  # right, since half of training
        watched_row(cells[1], 0.1, (False, True, False, True), (1.0, 1.0, 0.5, 0.5)),  # right, at the end
        watched_row(cells[2], 0.1, (False, False, False, False), (1.0, 1.0, 1.0, 0.5)),  # missed
        watched_row(cells[3], 0.9, (False, True, True, False)),  # a flag that falls again
        watched_row(cells[4], 0.9, (False, False, True, True)),  # a false alarm
        watched_row(cells[5], 0.0, (True, True, True, True), easy=0.5),  # has not learned
    ]
    watch, rival, once = warnings(rows).rows
    assert watch == ["watch", "2 of 3", "1 of 2", "1 of 2", "75", "2 of 2", "0.8"]
    assert rival == ["running on to 360 at the same steps", "2 of 3", "0 of 2", "1 of 2", "88", "0 of 2", "0.4"]
    assert once == ["running on to 360 after training", "3 of 3", "0 of 2", "0 of 3", "100", "0 of 2", "0.1"]


def test_choices_whose_rates_disagree_are_watched_first():
    rows = screened()
    assert choices(rows)[0] == ("internal", "sandwich")
    mixed = [replace(row, left=row.easy) if row.cell == Cell("internal", "peri", 0.006) else row for row in rows]
    assert choices(mixed)[:2] == [("internal", "peri"), ("internal", "sandwich")]
    with pytest.raises(LoopscopeError, match="the screening is not complete"):
        choices(rows[1:-2])


def test_a_watched_run_trains_as_an_unwatched_one():
    cell = Cell("none", "pre", 0.006)
    row = watched(cell, seed=7, steps=4, every=2)
    assert [one.step for one in row.moments] == [2, 4]
    assert all(one.seconds > 0 and one.rival_seconds > 0 for one in row.moments)
    assert 500 % EVERY == 0
    settings = settings_of(cell, PLAIN, 7, steps=4)
    split = validation(settings.data)
    unseen = Split(split.problems[16:], split.answers[16:])
    found = curve(trained(settings)[0], settings.data, unseen, iterations=360)
    assert row.accuracy == {point: found[int(point) - 1] for point in row.accuracy}
    assert (row.easy, row.best, row.left) == (found[5], max(found), min(found[-16:]))


def test_the_commands_print_tables_draw_the_figure_and_write_the_evidence(tmp_path, capsys):
    ledger, seen, picture, out = (tmp_path / name for name in ("runs.jsonl", "watched.jsonl", "a.png", "mending.json"))
    rows = [
        *screened(),
        run(Cell("internal", "pre", 0.003)),
        run(Cell("internal", "pre", 0.003), "damping", kept=0.9, strength=0.5),
    ]
    rows.append(run(Cell("internal", "pre", 0.003), "damping", 100, stage="pilot", strength=0.5))
    for row in rows:
        append_line(ledger, asdict(row))
    append_line(seen, asdict(watched_row(Cell("internal", "pre", 0.003), 0.1, (False, True, True, True))))
    assert read_watched(seen)[0].collapses
    command = ["tables", "--ledger", str(ledger), "--watched", str(seen), "--picture", str(picture)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| damping 0.5 | 1 of 1 | 1 of 1 | 50 → 90 | +40 | +0 | 1.00 |" in printed
    assert len(all_tables(rows, read_watched(seen))) == 7
    assert image.imread(io.BytesIO(picture.read_bytes()), format="png").shape[2] == 4
    assert main(["evidence", "--ledger", str(ledger), "--out", str(out)]) == 0
    assert read_mending(out) == mending_of(rows)
    assert main(["evidence", "--ledger", str(tmp_path / "none.jsonl"), "--out", str(out)]) == 2
    assert "no cell of the comparison loses its accuracy" in capsys.readouterr().err
    seen.write_text('{"cell": 1}\n')
    assert main(command) == 2


def test_the_package_quotes_the_counts_of_the_ledger():
    assert mending() == mending_of(read_runs())


def test_the_page_shows_the_tables_of_the_ledgers():
    page = (Path(__file__).parents[3] / "docs" / "evidence" / "mending.md").read_text().splitlines()
    runs, seen = read_runs(), read_watched()
    for sheet in (bought(runs), by_cell(runs), orbits(runs), pilot_table(runs), warnings(seen), watched_runs(seen)):
        lines = [line for line in in_markdown(sheet).splitlines() if line.startswith("|")]
        assert lines[0] in page, sheet.title
        start = page.index(lines[0])
        assert page[start : start + len(lines)] == lines, sheet.title
