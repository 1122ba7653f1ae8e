"""Outcomes, statistics and the analysis of populations that were made up so that the answers are known."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from examples_of_populations import KEEPS, LOSES, NEVER, baseline, curve, made, population
from scipy import stats
from sklearn.metrics import roc_auc_score

from loopscope.cli import POPULATION, main
from loopscope.errors import LoopscopeError
from loopscope.reports.forecast import OF, RIGHT
from loopscope.reports.kit.sheet import in_markdown
from loopscope.reports.prediction import analysis_tables
from loopscope.stability.verdict import FITTED, TESTED_ON
from loopscope.studies.clocks import ALL, MEDIAN_CLOCK
from loopscope.studies.guidance import guidance
from loopscope.studies.outcomes import Fate, collapse, outcomes
from loopscope.studies.population import read_population
from loopscope.studies.prediction import AHEAD, IN_FULL, LEAPT, analyse, said_and_done
from loopscope.studies.predictors import ALL_AXES, LOOK, MADE_ON, PREDICTORS
from loopscope.studies.signals import (
    AT_FURTHER,
    EASY_ACCURACY,
    LAST_RESIDUAL,
    LEAP_KEEPS,
    LEAP_KEPT,
    LONG_RUN,
    RANDOM,
    STATE_RADIUS,
    SWAP,
)
from loopscope.studies.statistics import auc, cross_fit, estimate_auc, folds, interval, numbered, reliability, spearman
from loopscope.studies.tallies import tallies
from loopscope.studies.unseen import ALL as ALL_TASKS

ROOT = Path(__file__).parent.parent


def test_fates():
    members = [
        made("a", KEEPS, 0.8),
        made("b", KEEPS, 0.4),
        made("c", LOSES),
        made("d", NEVER),
        made("e", None),
        made("f", curve(*[0.0] * 8), task="sudoku"),
        made("g", curve(0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.19), task="sudoku"),
        made("h", curve(*[0.09] * 8), task="chess"),
    ]
    found = outcomes(members)
    assert [one.fate for one in found] == [
        Fate.EXTRAPOLATES, Fate.HOLDS, Fate.LOSES, Fate.NEVER, Fate.FAILED, Fate.NEVER, Fate.HOLDS,
        Fate.NEVER,
    ]  # fmt: skip
    assert [one.collapse for one in found] == [None, None, 160, None, None, None, None, None]
    assert [one.solves for one in found] == [True, True, True, False, False, False, True, False]
    assert found[6].kept == pytest.approx(0.95)
    assert found[5].kept is None


def test_verdicts_are_counted_by_what_became_of_the_models():
    """Whatever the verdict was when a model was examined, it is today's rule that counts."""
    said = {0.0: made("a", LOSES), 0.95: made("b", KEEPS, 0.8)}
    members = [
        replace(member, examined={"verdict": "extrapolates", "numbers": {"fraction arrived": arrived}})
        for arrived, member in said.items()
    ]
    found = said_and_done([*members, made("c", None)], outcomes([*members, made("c", None)]))
    assert found[IN_FULL] == {"unstable": {"loses it": 1}, "undecided": {"extrapolates": 1}}
    assert found[AHEAD] == {"undecided": {"loses it": 1, "extrapolates": 1}}
    assert LEAPT not in found


def test_what_leaps_say_of_unseen_models_is_counted_by_what_became_of_them():
    """It is what forecast says that counts, not what is left at its last iteration, which may be enough by luck."""
    members = [
        made(f"{keeps}{end is KEEPS}", end, study=study, **{LEAP_KEPT: 1.0, LEAP_KEEPS: keeps})
        for keeps, end, study in (
            (1.0, KEEPS, "other"),
            (0.0, LOSES, "other"),
            (0.0, LOSES, "other"),
            (1.0, LOSES, "other"),
            (1.0, KEEPS, MADE_ON),
        )
    ]
    members.append(made("not asked", KEEPS, **{LEAP_KEPT: 1.0}))
    found = said_and_done(members, outcomes(members))
    assert found[LEAPT] == {
        "keeps its answers": {"holds": 1, "loses it": 1},
        "loses answers": {"loses it": 2},
    }


def test_a_brief_look_pays_for_its_first_pass_once():
    signals = {LAST_RESIDUAL: 1e-3, SWAP: 0.2, RANDOM: 0.1, LONG_RUN: 1.0}
    member = made("a", KEEPS, **signals)
    timed = {name: {**signal, "seconds": 10.0 if name == LONG_RUN else 0.5} for name, signal in member.signals.items()}
    timed[SWAP]["seconds"] = timed[RANDOM]["seconds"] = 0.9
    look = next(one for one in PREDICTORS if one.name == LOOK)
    assert look.seconds(replace(member, signals=timed)) == pytest.approx(1.3)
    assert look.seconds(made("b", KEEPS)) is None
    residual, slowest, swapped, random, *others = look.numbers(member)
    assert (residual, swapped, random) == pytest.approx((-3, np.log10(0.2), -1))
    assert slowest is None
    assert others == [None] * 3


def test_the_baseline_stands_in_the_tables_alone():
    looped = [made(f"m{i}", KEEPS if i % 2 else LOSES, rate=i * 1e-3, seed=i) for i in range(1, 5)]
    deep = baseline(curve(*[1.0] * 8), 0.3)
    found = analyse([*looped, deep])
    assert found.models == 4
    assert found.fates == {"prefix-sums": {"holds": 2, "loses it": 2}}
    row = found.cells_table[-1]
    assert (row.recall, row.easy, row.hard, row.fates) == ("fixed depth", [1.0], [0.3], {})
    assert guidance([*looped, deep])[0].by_choice["recall"][0].models == 4


def test_a_baseline_decides_of_no_looped_model_what_it_solves():
    """Looped models of half the baseline's accuracy are the best of their kind, in every table."""
    looped = [made(f"m{i}", curve(*[0.5] * 8), rate=i * 1e-3) for i in range(1, 5)]
    found = analyse([*looped, baseline(curve(*[1.0] * 8), 0.3)])
    assert found.fates == {"prefix-sums": {"holds": 4}}
    assert [row.fates for row in found.cells_table[:4]] == [{"holds": 1}] * 4
    assert found.tallies["prefix-sums"]["recall"][0].fates == {"holds": 4}


def test_tallies_count_each_task_by_itself():
    members = [
        made("a", KEEPS, 0.8, **{STATE_RADIUS: 0.7}),
        made("b", KEEPS, 0.4, norm="pre", **{STATE_RADIUS: 0.9}),
        made("c", LOSES, recall="none", norm="gru"),
        made("d", NEVER, recall="none", norm="gru"),
        made("e", None, recall="none", norm="pre"),
        made("f", LOSES, task="sudoku"),
        baseline(curve(*[0.9] * 8), 0.1),
        baseline(curve(*[0.5] * 8), 0.3),
    ]
    found = tallies(members, outcomes(members))
    assert list(found) == ["prefix-sums", "sudoku"]
    internal, none = found["prefix-sums"]["recall"]
    assert (internal.choice, internal.models, internal.solve, internal.state_radius) == ("internal", 2, 2, 0.9)
    assert internal.fates == {"extrapolates": 1, "holds": 1}
    assert (internal.easy, internal.hard) == pytest.approx((1.0, 0.6))
    # What failed counts as 0: one loses all, one keeps 0.1.
    assert (none.models, none.solve, none.state_radius) == (3, 1, None)
    assert none.fates == {"loses it": 1, "never learned": 1, "failed": 1}
    assert (none.easy, none.hard) == pytest.approx((0.1 / 3, 0.0))
    norms = {one.choice: one.models for one in found["prefix-sums"]["normalization"]}
    assert norms == {"outer": 1, "pre": 2, "gru": 2}
    bounded = {one.choice: one.models for one in found["prefix-sums"]["recall and state"]}
    assert bounded == {"internal, bounded": 1, "internal, unbounded": 1, "none, bounded": 2, "none, unbounded": 1}
    both = {one.choice: one.models for one in found["prefix-sums"]["recall and normalization"]}
    assert both == {"internal, outer": 1, "internal, pre": 1, "none, gru": 2, "none, pre": 1}
    (deep,) = found["prefix-sums"]["fixed depth"]
    assert (deep.choice, deep.models, deep.solve, deep.fates) == ("15 blocks", 2, None, {})
    assert (deep.easy, deep.hard) == pytest.approx((0.7, 0.2))
    assert [one.models for one in found["sudoku"]["recall"]] == [1]
    assert "fixed depth" not in found["sudoku"]


def published(heading: str) -> list[list[str]]:
    """Return the cells of the table of the results' page whose first heading is given, blanks as they are."""
    lines = (ROOT / "docs" / "results.md").read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


@pytest.mark.parametrize("heading", ["recall", "normalization"])
def test_the_published_sums_are_those_of_the_published_models(heading):
    members = [
        one for one in read_population(ROOT / "results" / "prediction" / POPULATION) if one.task == "prefix-sums"
    ]
    found = tallies(members, outcomes(members))["prefix-sums"]
    printed = {}
    for one in found[heading] + found["fixed depth"]:
        fates = [str(one.fates.get(fate.value, 0)) if one.fates else "" for fate in list(Fate)[:4]]
        means = [f"{100 * one.easy:.1f}", f"{100 * one.hard:.1f}"]
        name = one.choice if one.fates else f"fixed depth, {one.choice}"
        printed[f"{name} ({one.models})"] = [*fates, *means]
    rows = published(heading)
    assert len(rows) >= 4
    for name, *cells in rows:
        assert cells == printed[name]


@pytest.mark.parametrize(("heading", "mode"), [("verdict", IN_FULL), ("it says", LEAPT)])
def test_the_published_verdicts_are_those_of_the_published_models(heading, mode):
    members = [one for one in read_population(ROOT / "results" / "prediction" / POPULATION) if one.looped]
    found = said_and_done(members, outcomes(members))[mode]
    fates = [fate.value for fate in list(Fate)[:4]]
    assert {name: cells for name, *cells in published(heading)} == {
        name: [str(counts.get(fate, 0)) for fate in fates] for name, counts in found.items()
    }


@pytest.fixture(scope="module")
def published_analysis():
    return analyse(read_population(ROOT / "results" / "prediction" / POPULATION))


def test_the_fitted_thresholds_are_those_that_are_taken_of_what_the_published_models_set(published_analysis):
    found = published_analysis.thresholds
    taken = {one.measure: one.fitted for one in found.numbers if one.taken}
    assert list(taken) == [one.measure for one in FITTED] == ["fraction arrived"]
    for used in FITTED:
        assert (used.holds, used.fails) == pytest.approx(
            (taken[used.measure].holds, taken[used.measure].fails), abs=5e-4
        )
        assert used.origin == taken[used.measure].origin
    assert found.population == TESTED_ON


def test_forecast_names_its_record_among_the_published_models(published_analysis):
    (leaps,) = [one.right[ALL_TASKS] for one in published_analysis.unseen if one.name == LEAP_KEPT]
    assert (leaps.right, leaps.models) == (RIGHT, OF)


def test_the_published_tables_are_those_that_analyse_makes_of_the_published_models(published_analysis):
    """Whole rows: what stands in a document is copied from tables.md, headings included."""
    made_rows = set("\n".join(map(in_markdown, analysis_tables(published_analysis))).splitlines())
    rows = [line for line in (ROOT / "docs" / "results.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) >= 20
    assert [row for row in rows if not row.startswith("|---") and row not in made_rows] == []


def test_collapse_is_the_first_fall_below_half_after_the_best():
    assert collapse(curve(0.0, 1.0, 0.5, 0.49, 1.0, 0.2, 0.2, 0.2)) == 40
    assert collapse(curve(0.0, 0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9)) is None


def test_the_area_is_that_of_scikit_learn_ties_included():
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 5, 60).astype(float), generator.random(60) < 0.4
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert np.isnan(auc(scores, np.ones(60, dtype=bool)))


def test_rank_correlation_is_known_and_undefined_without_variation():
    first = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(first, np.exp(first)) == pytest.approx(1)
    assert spearman(first, np.array([4.0, 3.0, 1.0, 2.0])) == pytest.approx(-0.8)
    assert np.isnan(spearman(first, np.ones(4)))


def test_intervals_of_a_mean_over_cells_of_one_are_the_normal_ones():
    values = np.random.default_rng(1).normal(size=400)
    low, high = interval(lambda chosen: float(values[chosen].mean()), np.arange(400))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_copies_in_a_cell_are_no_further_evidence():
    values = np.random.default_rng(2).normal(size=40)
    cells = np.arange(40)
    once = interval(lambda chosen: float(values[chosen].mean()), cells)
    copies = np.repeat(values, 5)
    assert interval(lambda chosen: float(copies[chosen].mean()), np.repeat(cells, 5)) == pytest.approx(once)


def test_too_few_models_give_no_number():
    scores = np.arange(20.0)
    found = estimate_auc(scores, scores >= 16, np.arange(20))
    assert found.value is None
    assert found.note == "too few: 4 hold, 16 do not"
    assert estimate_auc(scores, scores >= 15, np.arange(20)).value == 1


def test_whole_cells_are_tested_by_rules_that_have_not_seen_them():
    cells = numbered([f"cell {i // 4}" for i in range(80)])
    labels = np.array([i % 2 for i in range(80)])
    parts = folds(labels, cells)
    assert sorted(np.concatenate(parts)) == list(range(80))
    assert len(parts) == 5
    for tested in parts:
        assert not set(cells[tested]) & set(np.delete(cells, tested))
    said = cross_fit(lambda fitted: lambda tested: np.isin(tested, fitted).astype(float), parts, 80)
    assert (said == 0).all()
    unfit = cross_fit(lambda fitted: None, parts, 80)
    assert np.isnan(unfit).all()


def test_reliability_counts_bins():
    found = reliability(np.array([0.05, 0.1, 0.95, 1.0]), np.array([False, True, True, True]))
    assert [one.models for one in found] == [2, 0, 0, 0, 2]
    assert (found[0].forecast, found[0].held) == pytest.approx((0.075, 0.5))
    assert found[1].forecast is None
    assert found[4].held == 1


@pytest.fixture(scope="module")
def analysis():
    return analyse([*population(("prefix-sums", "sudoku")), made("never", NEVER), made("failed", None)])


def named(results, name, task=None):
    (found,) = [one for one in results if one.name == name and (task is None or one.task == task)]
    return found


def test_a_number_that_decides_is_found_and_noise_is_not(analysis):
    assert named(analysis.performances, "geometry").area.value == 1
    assert named(analysis.performances, ALL_AXES).area.value == 1
    assert named(analysis.performances, LONG_RUN).area.value == 1
    assert named(analysis.performances, LAST_RESIDUAL).area.value == 0.5
    noise = named(analysis.performances, EASY_ACCURACY).area
    assert noise.low < 0.5 < noise.high
    assert named(analysis.performances, "geometry").area.models == 96
    assert named(analysis.performances, "geometry").brier.value < 0.1


def test_a_signal_is_used_as_it_is_and_counts_its_seconds(analysis):
    """Half the seeds have the radius of W_state turned round: its area is a half by symmetry."""
    assert named(analysis.performances, STATE_RADIUS).area.value == pytest.approx(0.5)
    assert named(analysis.performances, STATE_RADIUS).seconds == 0.5
    assert named(analysis.performances, "reachability").seconds == 1
    assert named(analysis.performances, "geometry").seconds == 3


def test_what_is_not_known_of_any_model_is_no_forecast(analysis):
    """Nothing was swapped in these populations."""
    area = named(analysis.performances, "input-dependence").area
    assert area.value is None
    assert area.note == "too few: 0 hold, 0 do not"


def test_the_framework_is_compared_with_the_best_short_rival(analysis):
    all_axes = named(analysis.performances, ALL_AXES)
    best = named(analysis.performances, all_axes.rival).area.value
    assert best == max(
        one.area.value for one in analysis.performances
        if one.kind == "rival" and one.name != LONG_RUN and AT_FURTHER not in one.name and one.area.value is not None
    )  # fmt: skip
    assert all_axes.ahead.value == pytest.approx(1 - best)
    assert all_axes.ahead.low > 0
    assert all(one.ahead is None for one in analysis.performances if one.kind == "rival" or AT_FURTHER in one.name)


def test_counts_of_fates_and_cells(analysis):
    assert analysis.models == 98
    assert analysis.fates["sudoku"] == {"extrapolates": 24, "loses it": 24}
    assert analysis.fates["prefix-sums"]["failed"] == analysis.fates["prefix-sums"]["never learned"] == 1
    first = analysis.cells_table[0]
    assert (first.recall, first.norm, first.iterations, first.best, first.easy, first.hard) == (
        "internal",
        "outer",
        20,
        [1.0, 1.0, 0.2, None],
        [1.0, 1.0, 0.1, None],
        [0.9, 0.9, 0.0, None],
    )
    assert len(analysis.placed) == 97
    assert sum(one.forecasts[ALL_AXES] is not None for one in analysis.placed) == 96
    assert sum(one.models for one in analysis.calibration[ALL_AXES]) == 96


def test_rules_carry_over_to_another_task(analysis):
    assert analysis.source == "prefix-sums"
    assert named(analysis.transfers, "geometry", "sudoku").area.value == 1
    assert named(analysis.transfers, "geometry", "sudoku").area.models == 48
    assert named(analysis.transfers, LAST_RESIDUAL, "sudoku").area.value == 0.5
    assert named(analysis.transfers, "input-dependence", "sudoku").area.value is None


def test_the_clock_beats_the_median_where_the_radius_tells_the_time(analysis):
    of_all = [one for one in analysis.clocks if one.among == ALL]
    ours, middle = named(of_all, ALL_AXES), named(of_all, MEDIAN_CLOCK)
    assert analysis.collapsed == 48
    assert analysis.earlier == 0
    assert ours.octaves.value < 0.3 < middle.octaves.value
    # They collapse at 320, 160, 80 and 40, as often each: from the median, between 80 and 160, an octave or two halves.
    assert 0.5 <= middle.octaves.value <= 1.5
    assert ours.gain.value == pytest.approx(middle.octaves.value - ours.octaves.value)
    assert 0 < ours.gain.low < ours.gain.high
    assert middle.gain.value == 0


def test_no_forecast_looks_at_an_outcome(analysis):
    """Models whose curves are exchanged are forecast by the same numbers."""
    members = population()
    exchanged = [replace(member, curves={**member.curves, "easy": NEVER, "hard": NEVER}) for member in members]
    for predictor in PREDICTORS:
        assert [predictor.numbers(one) for one in members] == [predictor.numbers(one) for one in exchanged]


def test_few_models_are_said_to_be_few():
    found = analyse([made("a", KEEPS, 0.9), made("b", LOSES, rate=2e-3)])
    assert named(found.performances, "geometry").area.note.startswith("too few")
    assert all(one.rival is one.ahead is None for one in found.performances)
    assert all(clock.octaves.value is clock.gain.value is None for clock in found.clocks)
    assert found.transfers == []


def test_a_population_without_outcomes_is_refused():
    with pytest.raises(LoopscopeError, match="no model of the population was both evaluated and examined"):
        analyse([made("e", None)])


def test_guidance_counts():
    members = [
        *(made(f"a{i}", KEEPS, 0.9, rate=1e-3, seed=i) for i in range(4)),
        *(made(f"b{i}", KEEPS, 0.3, rate=2e-3, seed=i) for i in range(2)),
        made("c", LOSES, norm="pre"),
        made("d", None, norm="pre", rate=2e-3),
    ]
    (found,) = guidance(members)
    best = found.pairs[0]
    assert best.choice == "internal recall with outer normalization"
    assert (best.models, best.solve, best.hold, best.extrapolate) == (6, 6, 6, 4)
    assert best.hard == pytest.approx(0.7)
    assert best.sure == pytest.approx(stats.binomtest(6, 6).proportion_ci(method="wilson").low)
    other = found.by_choice["normalization"][1]
    assert (other.choice, other.models, other.solve, other.hold, other.hard) == ("pre", 2, 1, 0, 0.0)
    assert found.rates[0].choice == "0.001"
    assert "6 of 6 models solve it and keep that; learning rate 0.001: 4 of 4 of these" in found.sentence


def test_guidance_without_a_model_that_holds_says_so():
    (found,) = guidance([made("c", LOSES), made("e", None)])
    assert found.sentence == "prefix-sums: no model of 2 solves the task and keeps it."


def test_the_commands_read_a_population(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = [*population(("prefix-sums", "sudoku")), made("failed", None)]
    (tmp_path / "ledger.jsonl").write_text("\n".join(json.dumps(asdict(row)) for row in rows) + "\n")
    assert main(["study", "analyse", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")] for line in said.splitlines()]
    assert next(row for row in rows if row[1:3] == ["geometry", "96"])[3] == "1.00 [1.00, 1.00]"
    (lead,) = [row for row in rows if row[1:3] == [ALL_AXES, EASY_ACCURACY]]
    assert lead[3].startswith("0.5")
    assert "ahead of the best rival that sees as much:\n  all three axes: 0.5" in said
    saved = json.loads((tmp_path / "analysis.json").read_text())
    assert saved["models"] == 97
    for name in ("forecast", "prefix-sums-easy", "sudoku-hardest"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert saved["tallies"]["sudoku"]["recall and state"][0]["fates"] == {"extrapolates": 24}
    page = (tmp_path / "report.html").read_text()
    for task in ("prefix-sums", "sudoku"):
        for choice in ("recall", "normalization", "recall and state", "recall and normalization"):
            assert f"{task}, by {choice}" in said
            assert f"<h2>{task}, by {choice}</h2>" in page
    assert "What this does not show" in page
    tables = (tmp_path / "tables.md").read_text()
    for everything in (said, page, tables):
        assert "internal recall with outer normalization: 24 of 25 models" in everything
    assert "| geometry | 96 | 1.00 [1.00, 1.00] |" in tables
    assert f"| {ALL_AXES} | {EASY_ACCURACY} | {lead[3]} | 96 |" in tables
    assert "http" not in page.replace("http://www.w3.org", "")
    assert main(["advise", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "prefix-sums: internal recall with outer normalization: 24 of 25 models" in said


@pytest.mark.parametrize("command", [["study", "analyse"], ["advise"]])
def test_a_missing_or_damaged_population_is_one_line(tmp_path, capsys, command, unchecked):
    for content, said in ((None, "does not exist"), ("{}\n", "line 1 is no row of a population")):
        if content is not None:
            (tmp_path / "ledger.jsonl").write_text(content)
        assert main([*command, str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("loopscope: ")
        assert said in line
