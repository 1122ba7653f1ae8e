"""Outcomes, statistics and the analysis of made-up populations whose answers are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from experiments.prediction.__main__ import main
from experiments.prediction.analysis import analyse
from experiments.prediction.analysis.breakdowns import breakdowns
from experiments.prediction.analysis.collapse_times import ALL, MEDIAN
from experiments.prediction.analysis.outcomes import Outcome, collapse, results_of
from experiments.prediction.analysis.predictors import ALL_AXES, PREDICTORS, RESTARTS
from experiments.prediction.analysis.recommendations import recommendations
from experiments.prediction.analysis.statistics import (
    auc,
    cross_fit,
    estimate_auc,
    folds,
    interval,
    numbered,
    reliability,
    share,
    share_of,
    spearman,
)
from experiments.prediction.analysis.verdicts import ALL_ITERATIONS, PREDICTION_MODE, verdict_counts
from experiments.prediction.population import LEDGER, write_population
from experiments.prediction.signals import (
    AT_BUDGET,
    EASY_ACCURACY,
    LAST_RESIDUAL,
    LONG_RUN,
    RANDOM,
    STATE_RADIUS,
    SWAP,
)
from experiments.prediction.tests.populations import (
    DEGRADED,
    RETAINED,
    UNLEARNED,
    baseline,
    curve,
    made,
    population,
    refusal,
)
from loopscope.errors import LoopscopeError


def test_outcomes_follow_from_curves():
    members = [
        made("a", RETAINED, 0.8),
        made("b", RETAINED, 0.4),
        made("c", DEGRADED),
        made("d", UNLEARNED),
        made("e", None),
        made("f", curve(*[0.0] * 8), task="sudoku"),
        made("g", curve(0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.19), task="sudoku"),
        made("h", curve(*[0.09] * 8), task="chess"),
    ]
    found = results_of(members)
    assert [one.outcome for one in found] == [
        Outcome.EXTRAPOLATES, Outcome.RETAINS, Outcome.DEGRADES, Outcome.NOT_LEARNED, Outcome.FAILED,
        Outcome.NOT_LEARNED, Outcome.RETAINS, Outcome.NOT_LEARNED,
    ]  # fmt: skip
    assert [one.collapse for one in found] == [None, None, 160, None, None, None, None, None]
    assert [one.solves for one in found] == [True, True, True, False, False, False, True, False]
    assert found[6].retained == pytest.approx(0.95)
    assert found[5].retained is None


def test_verdicts_are_counted_by_outcome():
    """The current rule counts, whatever the verdict was when a model was examined."""
    arrived_of = {0.0: made("a", DEGRADED), 0.95: made("b", RETAINED, 0.8)}
    members = [
        replace(member, examination={"verdict": "extrapolates", "numbers": {"fraction arrived": arrived}})
        for arrived, member in arrived_of.items()
    ]
    found = verdict_counts([*members, made("c", None)], results_of([*members, made("c", None)]))
    assert found[ALL_ITERATIONS] == {"unstable": {"degrades": 1}, "undecided": {"extrapolates": 1}}
    assert found[PREDICTION_MODE] == {"undecided": {"degrades": 1, "extrapolates": 1}}


def test_restarts_pay_for_the_first_pass_once():
    signals = {LAST_RESIDUAL: 1e-3, SWAP: 0.2, RANDOM: 0.1, LONG_RUN: 1.0}
    member = made("a", RETAINED, **signals)
    timed = {name: {**signal, "seconds": 10.0 if name == LONG_RUN else 0.5} for name, signal in member.signals.items()}
    timed[SWAP]["seconds"] = timed[RANDOM]["seconds"] = 0.9
    restarts = next(one for one in PREDICTORS if one.name == RESTARTS)
    assert restarts.seconds(replace(member, signals=timed)) == pytest.approx(1.3)
    assert restarts.seconds(made("b", RETAINED)) is None
    residual, slowest, swapped, random, *others = restarts.numbers(member)
    assert (residual, swapped, random) == pytest.approx((-3, np.log10(0.2), -1))
    assert slowest is None
    assert others == [None] * 3


def test_the_baseline_appears_in_breakdowns_and_configurations_only():
    looped = [made(f"m{i}", RETAINED if i % 2 else DEGRADED, rate=i * 1e-3, seed=i) for i in range(1, 5)]
    deep = baseline(curve(*[1.0] * 8), 0.3)
    found = analyse([*looped, deep])
    assert found.models == 4
    assert found.outcomes == {"prefix-sums": {"retains": 2, "degrades": 2}}
    row = found.configuration_rows[-1]
    assert (row.recall, row.easy, row.hard, row.outcomes) == ("fixed depth", [1.0], [0.3], {})
    assert recommendations([*looped, deep])[0].by_choice["recall"][0].models == 4


def test_a_baseline_does_not_decide_which_looped_models_solve_a_task():
    """Looped models with half of the baseline's accuracy are the best of their kind, in every table."""
    looped = [made(f"m{i}", curve(*[0.5] * 8), rate=i * 1e-3) for i in range(1, 5)]
    found = analyse([*looped, baseline(curve(*[1.0] * 8), 0.3)])
    assert found.outcomes == {"prefix-sums": {"retains": 4}}
    assert [row.outcomes for row in found.configuration_rows[:4]] == [{"retains": 1}] * 4
    assert found.breakdowns["prefix-sums"]["recall"][0].outcomes == {"retains": 4}


def test_breakdowns_count_each_task_by_itself():
    members = [
        made("a", RETAINED, 0.8, **{STATE_RADIUS: 0.7}),
        made("b", RETAINED, 0.4, norm="pre", **{STATE_RADIUS: 0.9}),
        made("c", DEGRADED, recall="none", norm="gru"),
        made("d", UNLEARNED, recall="none", norm="gru"),
        made("e", None, recall="none", norm="pre"),
        made("f", DEGRADED, task="sudoku"),
        baseline(curve(*[0.9] * 8), 0.1),
        baseline(curve(*[0.5] * 8), 0.3),
    ]
    found = breakdowns(members, results_of(members))
    assert list(found) == ["prefix-sums", "sudoku"]
    internal, none = found["prefix-sums"]["recall"]
    assert (internal.choice, internal.models, internal.solve, internal.state_radius) == ("internal", 2, 2, 0.9)
    assert internal.outcomes == {"extrapolates": 1, "retains": 1}
    assert (internal.easy, internal.hard) == pytest.approx((1.0, 0.6))
    # A failed model counts as 0. Of the others, one degrades to 0 and one keeps 0.1.
    assert (none.models, none.solve, none.state_radius) == (3, 1, None)
    assert none.outcomes == {"degrades": 1, "not learned": 1, "failed": 1}
    assert (none.easy, none.hard) == pytest.approx((0.1 / 3, 0.0))
    norms = {one.choice: one.models for one in found["prefix-sums"]["normalization"]}
    assert norms == {"outer": 1, "pre": 2, "gru": 2}
    bounded = {one.choice: one.models for one in found["prefix-sums"]["recall and state"]}
    assert bounded == {"internal, bounded": 1, "internal, unbounded": 1, "none, bounded": 2, "none, unbounded": 1}
    both = {one.choice: one.models for one in found["prefix-sums"]["recall and normalization"]}
    assert both == {"internal, outer": 1, "internal, pre": 1, "none, gru": 2, "none, pre": 1}
    (deep,) = found["prefix-sums"]["fixed depth"]
    assert (deep.choice, deep.models, deep.solve, deep.outcomes) == ("15 blocks", 2, None, {})
    assert (deep.easy, deep.hard) == pytest.approx((0.7, 0.2))
    assert [one.models for one in found["sudoku"]["recall"]] == [1]
    assert "fixed depth" not in found["sudoku"]


def test_collapse_is_the_first_fall_below_half_after_the_best():
    assert collapse(curve(0.0, 1.0, 0.5, 0.49, 1.0, 0.2, 0.2, 0.2)) == 40
    assert collapse(curve(0.0, 0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9)) is None


def test_the_area_agrees_with_scikit_learn_on_ties_too():
    generator = np.random.default_rng(0)
    scores, positive = generator.integers(0, 5, 60).astype(float), generator.random(60) < 0.4
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert np.isnan(auc(scores, np.ones(60, dtype=bool)))


def test_rank_correlation_is_known_and_undefined_without_variation():
    first = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(first, np.exp(first)) == pytest.approx(1)
    assert spearman(first, np.array([4.0, 3.0, 1.0, 2.0])) == pytest.approx(-0.8)
    assert np.isnan(spearman(first, np.ones(4)))
    generator = np.random.default_rng(0)
    tied, other = generator.integers(0, 8, 100).astype(float), generator.normal(size=100)
    other[:50] = tied[:50]
    assert spearman(tied, other) == pytest.approx(stats.spearmanr(tied, other).statistic, abs=1e-14)


def test_the_interval_of_a_mean_over_single_models_is_the_normal_one():
    values = np.random.default_rng(1).normal(size=400)
    low, high = interval(lambda chosen: float(values[chosen].mean()), np.arange(400))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_copies_of_a_configuration_add_no_evidence():
    values = np.random.default_rng(2).normal(size=40)
    cells = np.arange(40)
    once = interval(lambda chosen: float(values[chosen].mean()), cells)
    copies = np.repeat(values, 5)
    assert interval(lambda chosen: float(copies[chosen].mean()), np.repeat(cells, 5)) == pytest.approx(once)


def test_too_few_models_give_no_value():
    scores = np.arange(20.0)
    found = estimate_auc(scores, scores >= 16, np.arange(20))
    assert found.value is None
    assert found.note == "too few: 4 retain, 16 do not"
    assert estimate_auc(scores, scores >= 15, np.arange(20)).value == 1


def test_a_share_stands_with_its_wilson_interval():
    z = stats.norm.ppf(0.975)
    for count, total in ((71, 76), (5, 5), (0, 7)):
        fraction = count / total
        middle = (fraction + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z * np.sqrt(fraction * (1 - fraction) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
        found = share(count, total)
        assert (found.value, found.low, found.high) == pytest.approx(
            (fraction, middle - half, middle + half), abs=1e-12
        )
    assert share_of([True, False, True]) == share(2, 3)


def test_a_share_of_nothing_is_not_known_and_a_mean_count_has_the_interval_of_the_nearest():
    nothing = share_of([])
    assert nothing.value is nothing.low is nothing.high is None
    mean = share(70.6, 76.2)
    assert mean.value == pytest.approx(70.6 / 76.2)
    assert (mean.low, mean.high) == (share(71, 76).low, share(71, 76).high)


def test_whole_configurations_are_tested_by_rules_that_were_fitted_without_them():
    groups = numbered([f"configuration {i // 4}" for i in range(80)])
    labels = np.array([i % 2 for i in range(80)])
    parts = folds(labels, groups)
    assert sorted(np.concatenate(parts)) == list(range(80))
    assert len(parts) == 5
    for tested in parts:
        assert not set(groups[tested]) & set(np.delete(groups, tested))
    predicted = cross_fit(lambda fitted: lambda tested: np.isin(tested, fitted).astype(float), parts, 80)
    assert (predicted == 0).all()
    unfit = cross_fit(lambda fitted: None, parts, 80)
    assert np.isnan(unfit).all()


def test_reliability_counts_bins():
    found = reliability(np.array([0.05, 0.1, 0.95, 1.0]), np.array([False, True, True, True]))
    assert [one.models for one in found] == [2, 0, 0, 0, 2]
    assert (found[0].predicted, found[0].observed) == pytest.approx((0.075, 0.5))
    assert found[1].predicted is None
    assert found[4].observed == 1


MEMBERS = [*population(("prefix-sums", "sudoku")), made("never", UNLEARNED), made("failed", None)]


@pytest.fixture(scope="module")
def analysis():
    return analyse(MEMBERS)


def named(results, name, task=None):
    (found,) = [one for one in results if one.name == name and (task is None or one.task == task)]
    return found


def test_a_decisive_number_is_found_and_noise_is_not(analysis):
    assert named(analysis.performances, "geometry").area.value == 1
    assert named(analysis.performances, ALL_AXES).area.value == 1
    assert named(analysis.performances, LONG_RUN).area.value == 1
    assert named(analysis.performances, LAST_RESIDUAL).area.value == 0.5
    noise = named(analysis.performances, EASY_ACCURACY).area
    assert noise.low < 0.5 < noise.high
    assert named(analysis.performances, "geometry").area.models == 96
    assert named(analysis.performances, "geometry").brier.value < 0.1


def test_a_signal_is_used_as_it_is_and_counts_its_seconds(analysis):
    """Half the seeds have the radius of W_state mirrored, so its area is 0.5 by symmetry."""
    assert named(analysis.performances, STATE_RADIUS).area.value == pytest.approx(0.5)
    assert named(analysis.performances, STATE_RADIUS).seconds == 0.5
    assert named(analysis.performances, "reachability").seconds == 1
    assert named(analysis.performances, "geometry").seconds == 3


def test_a_number_that_no_model_has_is_not_a_forecast(analysis):
    """Nothing was swapped in these populations."""
    area = named(analysis.performances, "input-dependence").area
    assert area.value is None
    assert area.note == "too few: 0 retain, 0 do not"


def test_the_framework_is_compared_with_the_best_short_rival(analysis):
    all_axes = named(analysis.performances, ALL_AXES)
    best = named(analysis.performances, all_axes.rival).area.value
    assert best == max(
        one.area.value for one in analysis.performances
        if one.kind == "rival" and one.name != LONG_RUN and AT_BUDGET not in one.name and one.area.value is not None
    )  # fmt: skip
    assert all_axes.lead.value == pytest.approx(1 - best)
    assert all_axes.lead.low > 0
    assert all(one.lead is None for one in analysis.performances if one.kind == "rival" or AT_BUDGET in one.name)


def test_counts_of_outcomes_and_configurations(analysis):
    assert analysis.models == 98
    assert analysis.outcomes["sudoku"] == {"extrapolates": 24, "degrades": 24}
    assert analysis.outcomes["prefix-sums"]["failed"] == analysis.outcomes["prefix-sums"]["not learned"] == 1
    first = analysis.configuration_rows[0]
    assert (first.recall, first.norm, first.iterations, first.best, first.easy, first.hard) == (
        "internal",
        "outer",
        20,
        [1.0, 1.0, 0.2, None],
        [1.0, 1.0, 0.1, None],
        [0.9, 0.9, 0.0, None],
    )
    assert len(analysis.points) == 97
    assert sum(one.forecasts[ALL_AXES] is not None for one in analysis.points) == 96
    assert sum(one.models for one in analysis.calibration[ALL_AXES]) == 96


def test_rules_carry_over_to_another_task(analysis):
    assert analysis.source == "prefix-sums"
    assert named(analysis.transfers, "geometry", "sudoku").area.value == 1
    assert named(analysis.transfers, "geometry", "sudoku").area.models == 48
    assert named(analysis.transfers, LAST_RESIDUAL, "sudoku").area.value == 0.5
    assert named(analysis.transfers, "input-dependence", "sudoku").area.value is None


def test_the_collapse_time_is_predicted_better_than_by_the_median_if_the_radius_tells_it(analysis):
    of_all = [one for one in analysis.collapse_times.predictions if one.among == ALL]
    ours, middle = named(of_all, ALL_AXES), named(of_all, MEDIAN)
    assert analysis.collapse_times.later == 48
    assert analysis.collapse_times.earlier == 0
    assert ours.error.value < 0.3 < middle.error.value
    # They collapse at 320, 160, 80 and 40, equally often: half an octave or one and a half from the median.
    assert 0.5 <= middle.error.value <= 1.5
    assert ours.gain.value == pytest.approx(middle.error.value - ours.error.value)
    assert 0 < ours.gain.low < ours.gain.high
    assert middle.gain.value == 0


def test_no_forecast_depends_on_an_outcome(analysis):
    """Models whose curves are exchanged have the same numbers."""
    members = population()
    exchanged = [replace(member, curves={**member.curves, "easy": UNLEARNED, "hard": UNLEARNED}) for member in members]
    for predictor in PREDICTORS:
        assert [predictor.numbers(one) for one in members] == [predictor.numbers(one) for one in exchanged]


def test_few_models_give_notes_and_no_values():
    found = analyse([made("a", RETAINED, 0.9), made("b", DEGRADED, rate=2e-3)])
    assert named(found.performances, "geometry").area.note.startswith("too few")
    assert all(one.rival is one.lead is None for one in found.performances)
    assert all(one.agrees is None for one in found.claims)
    assert all(one.error.value is one.gain.value is None for one in found.collapse_times.predictions)
    assert found.transfers == []


def test_a_population_without_outcomes_is_refused():
    with pytest.raises(LoopscopeError, match="no model of the population was both evaluated and examined"):
        analyse([made("e", None)])


def test_recommendations_count_models():
    members = [
        *(made(f"a{i}", RETAINED, 0.9, rate=1e-3, seed=i) for i in range(4)),
        *(made(f"b{i}", RETAINED, 0.3, rate=2e-3, seed=i) for i in range(2)),
        made("c", DEGRADED, norm="pre"),
        made("d", None, norm="pre", rate=2e-3),
    ]
    (found,) = recommendations(members)
    best = found.pairs[0]
    assert best.choice == "internal recall with outer normalization"
    assert (best.models, best.solve, best.retain, best.extrapolate) == (6, 6, 6, 4)
    assert best.hard == pytest.approx(0.7)
    assert best.at_least == pytest.approx(stats.binomtest(6, 6).proportion_ci(method="wilson").low)
    other = found.by_choice["normalization"][1]
    assert (other.choice, other.models, other.solve, other.retain, other.hard) == ("pre", 2, 1, 0, 0.0)
    assert best.at_most == pytest.approx(1)
    rates = [(one.choice, one.models, one.extrapolate) for one in found.by_choice["recall and learning rate"]]
    assert sorted(rates) == [("internal, 0.001", 5, 4), ("internal, 0.002", 3, 0)]
    assert found.sentence == (
        "prefix-sums: internal recall with outer normalization comes first: 6 of 6 models solve the task and retain their "
        "accuracy. The 95% intervals of 1 of the 1 other pairs overlap with this."
    )


@pytest.mark.parametrize(
    ("norms", "named"),
    [
        (("outer", "pre"), "internal recall with outer normalization, internal recall with pre normalization"),
        (("outer", "pre", "peri", "gru"), "4 of 5 pairs"),
    ],
)
def test_pairs_that_tie_come_first_together(norms, named):
    members = [made(f"{norm}{seed}", RETAINED, 0.9, norm=norm, seed=seed) for norm in norms for seed in range(20)]
    members += [made(f"c{seed}", DEGRADED, norm="sandwich", seed=seed) for seed in range(20)]
    (found,) = recommendations(members)
    assert found.sentence == (
        f"prefix-sums: {named} come first: 20 of 20 models each solve the task and retain their accuracy. The 95% intervals "
        "of 0 of the 1 other pairs overlap with this."
    )


def test_a_recommendation_without_a_model_that_retains_its_accuracy_says_so():
    (found,) = recommendations([made("c", DEGRADED), made("e", None)])
    assert found.sentence == "prefix-sums: none of 2 models solves the task and retains its accuracy."


def test_the_commands_read_a_population(analysis, tmp_path, capsys, monkeypatch):
    """What is analysed is what was written; its analysis, which takes long, is that of the other tests."""

    def known(members):
        assert members == MEMBERS
        return analysis

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("experiments.prediction.analysis.analyse", known)
    write_population(tmp_path / LEDGER, MEMBERS)
    assert main(["analyse", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")] for line in shown.splitlines()]
    assert next(row for row in rows if row[1:3] == ["geometry", "96"])[3] == "1.00 [1.00, 1.00]"
    (lead,) = [row for row in rows if row[1:3] == [ALL_AXES, EASY_ACCURACY]]
    assert lead[3].startswith("0.5")
    assert "over the best rival that sees as much:\n  all three axes: 0.5" in shown
    saved = json.loads((tmp_path / "analysis.json").read_text())
    assert saved["models"] == 98
    for name in ("forecast", "prefix-sums-easy", "sudoku-hardest"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert saved["breakdowns"]["sudoku"]["recall and state"][0]["outcomes"] == {"extrapolates": 24}
    page = (tmp_path / "report.html").read_text()
    for task in ("prefix-sums", "sudoku"):
        for choice in ("recall", "normalization", "recall and state", "recall and normalization"):
            assert f"{task}, by {choice}" in shown
            assert f"<h2>{task}, by {choice}</h2>" in page
    assert "What this does not show" in page
    tables = (tmp_path / "tables.md").read_text()
    for everything in (shown, page, tables):
        assert "internal recall with outer normalization comes first: 24 of 26 models" in everything
    assert "| geometry | 96 | 1.00 [1.00, 1.00] |" in tables
    assert f"| {ALL_AXES} | {EASY_ACCURACY} | {lead[3]} | 96 |" in tables
    assert "http" not in page.replace("http://www.w3.org", "")
    assert main(["choices", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "prefix-sums: internal recall with outer normalization comes first: 24 of 26 models" in shown
    assert set(shown.splitlines()) <= set(tables.splitlines())


@pytest.mark.parametrize("command", ["analyse", "choices", "evidence"])
def test_a_missing_or_damaged_population_is_one_line(tmp_path, capsys, command, unchecked):
    for content, message in ((None, "does not exist"), ("{}\n", "line 1 is not a row of a population")):
        if content is not None:
            (tmp_path / LEDGER).write_text(content)
        assert message in refusal(capsys, [command, tmp_path])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["advise"], "invalid choice: 'advise'"),
        (["run"], "config"),
        (["analyse", "--folder", "x"], "unrecognized arguments: --folder"),
        (["run", "nothere.yaml"], "nothere.yaml does not exist"),
    ],
)
def test_a_mistake_in_a_command_is_one_line(arguments, message, capsys):
    assert message in refusal(capsys, arguments)
