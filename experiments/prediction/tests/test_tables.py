"""Costs, leads, collapse times, single signals, and the tables that show them and forecasts, for made-up models."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.prediction.analysis import analyse
from experiments.prediction.analysis.collapse_times import MEDIAN, collapse_times
from experiments.prediction.analysis.configurations import model_rows
from experiments.prediction.analysis.costs import costs
from experiments.prediction.analysis.fluctuations import fluctuations, lowest_late
from experiments.prediction.analysis.outcomes import Outcome, results_of
from experiments.prediction.analysis.predictors import (
    ALL_AXES,
    ALL_RIVALS,
    PREDICTORS,
    REACHABILITY,
)
from experiments.prediction.analysis.single_signals import single_signals
from experiments.prediction.report.page import write_analysis
from experiments.prediction.report.tables import analysis_tables, summary
from experiments.prediction.signals import (
    AT_BUDGET,
    COSINE,
    EASY_ACCURACY,
    FORECAST_COLLAPSE,
    FORECAST_KEPT,
    LAST_RESIDUAL,
    LONG_RUN,
    NORM_RATIO,
    POWER_ITERATION,
    RANDOM_ANSWER,
    SAME_STEPS,
    SLOPE,
)
from experiments.prediction.tests.populations import (
    CANNOT_TELL,
    COLLAPSES,
    DEGRADED,
    KEEPS,
    RETAINED,
    UNLEARNED,
    curve,
    made,
    population,
    said,
    sample,
)

RIVALS_30 = f"{ALL_RIVALS}{AT_BUDGET}"


def predictor(name):
    return next(one for one in PREDICTORS if one.name == name)


def named(results, name, **others):
    (found,) = [
        one for one in results if one.name == name and all(getattr(one, key) == value for key, value in others.items())
    ]
    return found


def test_all_rivals_at_30_iterations_see_running_on_and_pay_once():
    names = (POWER_ITERATION, LAST_RESIDUAL, NORM_RATIO, COSINE, EASY_ACCURACY, LONG_RUN)
    values = dict(zip(names, (0.5, 1e-3, 10.0, 0.9, 0.8, 0.7), strict=True))
    member = made("a", RETAINED, **{f"{name}{AT_BUDGET}": value for name, value in values.items()})
    member.signals[f"{POWER_ITERATION}{AT_BUDGET}"]["seconds"] = 0.8
    together = predictor(RIVALS_30)
    assert together.numbers(member) == pytest.approx([-0.5, 3.0, -1.0, 0.9, 0.8, 0.7])
    assert together.seconds(member) == 0.8
    assert together.at != predictor(FORECAST_KEPT).at == predictor(SAME_STEPS).at


def halves():
    """Return 16 models with a forecast, which misses one of them, and 16 without.

    Running on for as many steps misses two of the former. Easy accuracy at 30 iterations tells all models apart.
    """
    members = []
    for place in range(32):
        retains = place % 2 == 0
        kept = {FORECAST_KEPT: float(retains and place != 16), SAME_STEPS: float(retains and place not in (16, 18))}
        members.append(
            made(
                f"m{place}",
                RETAINED if retains else DEGRADED,
                rate=1e-3 * (1 + place),
                **{f"{EASY_ACCURACY}{AT_BUDGET}": float(retains)},
                **(kept if place >= 16 else {}),
            )
        )
    return members


def test_the_forecast_is_compared_with_running_on_for_as_many_steps_on_the_models_that_both_know():
    """Not with rivals at 30 iterations, which see less, even if one of them is better."""
    found = analyse(halves()).performances
    assert named(found, f"{EASY_ACCURACY}{AT_BUDGET}").area.value == 1
    kept = named(found, FORECAST_KEPT)
    assert kept.area.models == kept.lead.models == 16
    assert kept.rival == SAME_STEPS
    # Of 64 pairs, the forecast ties in the eight with the model that it misses, and running on in those with two.
    assert kept.area.value == pytest.approx(1 - 4 / 64)
    assert kept.lead.value == pytest.approx(4 / 64)


def test_costs_are_shares_of_running_on_by_task():
    members = [
        made("a", RETAINED, task="chess", **{FORECAST_KEPT: 1.0, LONG_RUN: 1.0}),
        made("b", RETAINED, task="chess", **{FORECAST_KEPT: 1.0, LONG_RUN: 1.0}),
        made("c", RETAINED, task="sudoku", **{LONG_RUN: 1.0}),
    ]
    for member, seconds in zip(members, (5.0, 10.0, 2.0), strict=True):
        member.signals[LONG_RUN]["seconds"] = seconds
    found = costs(members)
    assert named(found, FORECAST_KEPT).shares == {"chess": pytest.approx((0.1 + 0.05) / 2), "sudoku": None}
    # The orbits of an examination take one second and all of it four. A swap was not measured.
    assert named(found, REACHABILITY).shares == {"chess": pytest.approx(0.15), "sudoku": pytest.approx(0.5)}
    assert named(found, ALL_AXES).shares["sudoku"] == pytest.approx(2)


def test_collapse_times_are_predicted_for_all_tasks_for_each_and_for_all_but_each():
    """Forecasts see the collapse where it is, if they say that there is one. Models of sudoku collapse later."""
    late = curve(0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    members = [
        made(f"{task}{place}", end, task=task, rate=1e-3 * (1 + place),
             **{**said(answer), FORECAST_COLLAPSE: float(at)})
        for task, end, at in (("prefix-sums", DEGRADED, 160), ("sudoku", late, 320))
        for place in range(6)
        for answer in ([COLLAPSES, CANNOT_TELL] if task == "sudoku" else [COLLAPSES])
    ]  # fmt: skip
    members += [made("chess", DEGRADED, task="chess", **{**said(COLLAPSES), FORECAST_COLLAPSE: 40.0})]
    data = sample(members)
    values = {one.name: np.full((len(members), 1), 0.5) for one in PREDICTORS}
    times = collapse_times(data, values)
    found = times.predictions
    assert (times.later, times.earlier) == (19, 0)
    amongs = {"all", "prefix-sums", "sudoku", "all but prefix-sums", "all but sudoku", "all but chess"}
    assert {one.among for one in found} == amongs  # a single model of chess is too few
    counts = {one.among: one.error.models for one in found if one.name == FORECAST_COLLAPSE}
    assert counts == {
        "all": 13, "prefix-sums": 6, "sudoku": 6, "all but prefix-sums": 7, "all but sudoku": 7, "all but chess": 12,
    }  # fmt: skip
    assert named(found, FORECAST_COLLAPSE, among="all").error.value == 0
    # Twelve of eighteen collapse at 320, so the median of the others is 320: an octave late for half of the decided models.
    assert named(found, FORECAST_COLLAPSE, among="all but chess").gain.value == pytest.approx(0.5)
    for task in ("prefix-sums", "sudoku"):
        assert named(found, MEDIAN, among=task).error.value == 0


def test_a_collapse_of_which_less_than_half_is_seen_is_put_at_the_horizon():
    members = [made(f"m{place}", DEGRADED, rate=1e-3 * (1 + place), **said(COLLAPSES)) for place in range(5)]
    values = {one.name: np.full((5, 1), 0.5) for one in PREDICTORS}
    found = collapse_times(sample(members), values).predictions
    assert named(found, FORECAST_COLLAPSE).error.value == pytest.approx(np.log2(500 / 160))


def test_models_are_listed_one_by_one_if_their_iterations_of_training_differ():
    members = [
        made("a", RETAINED, task="chess", iterations=8, recall="none"),
        made("b", DEGRADED, task="chess", iterations=4, seed=1),
        made("c", curve(0.0, 0.0, 0.8, 0.8, 0.8, 0.8, 0.8, 0.6), task="chess", iterations=4),
        made("d", None, task="chess", iterations=8),
        made("e", RETAINED, task="sudoku"),
    ]
    found = model_rows(members, results_of(members))
    assert [(one.recall, one.iterations, one.seed, one.outcome) for one in found] == [
        ("internal", 4, 0, Outcome.NOT_LEARNED),
        ("internal", 4, 1, Outcome.DEGRADES),
        ("internal", 8, 0, Outcome.FAILED),
        ("none", 8, 0, Outcome.RETAINS),
    ]
    assert (found[0].best, found[0].easy, found[0].retained) == (0.8, 0.6, pytest.approx(0.75))
    assert found[2].best is found[2].easy is found[2].retained is None


def test_models_that_retain_their_accuracy_only_at_the_last_iteration_are_listed():
    """Only iterations from 300 on count, and only models that retain their accuracy."""
    members = [
        made("steady", RETAINED),
        made("late", curve(0.1, 0.5, 1.0, 1.0, 1.0, 0.2, 1.0, 1.0)),
        made("fluctuations", curve(0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 0.89, 0.95), 0.9),
        made("loses", DEGRADED),
    ]
    (found,) = fluctuations(members, results_of(members))
    assert (found.run, found.outcome) == ("fluctuations", Outcome.EXTRAPOLATES)
    assert (found.retained, found.lowest) == pytest.approx((0.95, 0.89))
    assert lowest_late(DEGRADED) == 0


def test_a_measurement_is_oriented_by_its_meaning():
    members = [
        made(f"m{place}", RETAINED if retains else DEGRADED, rate=1e-3 * (1 + place), **{
            SLOPE: -1.0 if retains else 0.5,
            f"{SLOPE}{AT_BUDGET}": 1.0 if retains else 0.5,
            RANDOM_ANSWER: 0.9 if retains else 0.1,
        })
        for place, retains in enumerate([True, False] * 6)
    ]  # fmt: skip
    for member in members:
        member.prediction_mode["lyapunov"] = -0.1 if member.easy is RETAINED else 0.1
        member.prediction_mode["growth"] = 0.0
    found = single_signals(sample(members))
    slope = named(found, SLOPE)
    assert (slope.trained.value, slope.budget.value, slope.trained.models) == (1, 0, 12)
    assert named(found, RANDOM_ANSWER).trained.value == 1
    assert named(found, "finite-time exponent").trained.value == 1
    assert named(found, "finite-time exponent").budget is None
    assert named(found, "growth of the state").trained.value == 0.5
    assert named(found, "fraction returned to its basin").trained.note == "too few: 0 retain, 0 do not"


@pytest.fixture(scope="module")
def analysis():
    """Return 48 models without a forecast, and 13 of chess with one: twelve right, and one undecided."""
    ends = [(RETAINED, said(KEEPS)), (DEGRADED, said(COLLAPSES, run=0.95, end=0.0))] * 6 + [
        (RETAINED, said(CANNOT_TELL, end=0.97))
    ]
    forecast = [
        made(f"f{place}", end, task="chess", study="chess", rate=1e-3 * (1 + place), iterations=8 + place % 2, seed=place, **told)
        for place, (end, told) in enumerate(ends)
    ]  # fmt: skip
    return analyse([*population(), *forecast])


def sheet_named(analysis, title):
    (found,) = [sheet for sheet in analysis_tables(analysis) if sheet.title == title]
    return found


def rows_of(analysis, title):
    return [list(row) for row in sheet_named(analysis, title).rows]


def test_the_summary_is_a_few_short_lines(analysis):
    lines = summary(analysis).splitlines()
    assert lines[0] == "Claims of the criterion, on 61 of 196 looped models:"
    unmeasured = "cannot tell: not measured: 48 of 61 models that solve their task"
    assert lines[1] == f"  A decided forecast is right: {unmeasured}"
    assert lines[5] == "  The three axes tell more than cheap signals: agrees"
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 10


def test_calibration_counts_every_bin(analysis):
    rows = [row for row in sheet_named(analysis, "Calibration").rows if row[0] == FORECAST_KEPT]
    assert len(rows) == 5
    assert sum(int(models) for _, _, models, *_ in rows) == 13
    assert rows[0][1] == "0.0 to 20.0"
    for _, _, models, predicted, _ in rows:
        assert (predicted == "–") == (models == "0")


def test_every_table_is_complete(analysis):
    titles = [sheet.title for sheet in analysis_tables(analysis)]
    assert len(set(titles)) == len(titles)
    assert titles[:2] == ["The claims of the criterion", "Main results"]
    for title in (
        "Forecasts of models that solve their task",
        "Which answers of the forecast came true",
        "Running on, on the same models",
        "Wrong forecasts",
        "Undecided models",
        "Outcomes by answer",
        "What the forecast costs",
        "Cost of a prediction, % of the time of running on",
        "Every measurement on its own",
        "Lead over the best rival",
        "Against the rate of the same kind",
        "chess, model by model",
        "Models that retain their accuracy only at the last iteration",
        "prefix-sums: design choices that retained their accuracy",
    ):
        assert title in titles
    for sheet in analysis_tables(analysis):
        assert {len(row) for row in sheet.rows} <= {len(sheet.columns)}


def test_tables_of_forecasts_show_counts_with_shares_and_intervals(analysis):
    told = ["13", "12 of 13, 92.3% [66.7, 98.6]", "12 of 12, 100.0% [75.8, 100.0]"]
    title = "Forecasts of models that solve their task"
    assert rows_of(analysis, title) == [["all tasks", *told], ["chess", *told], ["study chess", *told]]
    assert "Of 48 more models, no forecast was measured." in sheet_named(analysis, title).caption
    rows = rows_of(analysis, "Running on, on the same models")
    assert rows[1] == [
        SAME_STEPS, "all tasks", "7 of 13, 53.8% [29.1, 76.8]", "6 of 12, 50.0% [25.4, 74.6]", "1 of 1, 100.0% [20.7, 100.0]",
    ]  # fmt: skip
    assert rows_of(analysis, "Wrong forecasts") == []
    undecided = ["f12", "chess", "cannot tell", "80.0", "95.0", "97.0", "100.0", "retains"]
    assert rows_of(analysis, "Undecided models") == [undecided]
    assert ["cannot tell", "0", "1", "0", "0"] in rows_of(analysis, "Outcomes by answer")
    assert ["all tasks", "13", "12.0", "12.0", "100.0"] in rows_of(analysis, "What the forecast costs")


def test_the_claims_stand_with_what_was_found(analysis):
    sheet = sheet_named(analysis, "The claims of the criterion")
    assert "Of 61 looped models, 61 solve their task" in sheet.caption
    assert "the criterion speaks of 196" in sheet.caption
    assert list(sheet.rows[2][2:]) == [
        "median: 12.0%; largest: 12.0%", "cannot tell: not measured: 48 of 61 models that solve their task",
    ]  # fmt: skip
    assert sheet.rows[4][2].startswith("all three axes: 1.00 [1.00, 1.00]; all short rivals: 0.")
    assert sheet.rows[4][3] == "agrees"


KEPT, LOST = (RETAINED, said(KEEPS)), (DEGRADED, said(COLLAPSES, run=0.1, end=0.0))


@pytest.mark.parametrize(
    ("models", "decided"),
    [
        ([KEPT], "cannot tell: too few models with a forecast: 1"),
        ([KEPT, LOST], "cannot tell: too few models with a forecast: 2"),
        ([KEPT] * 12, "agrees"),
        ([LOST] * 12, "agrees"),
        ([(RETAINED, said(CANNOT_TELL))] * 8, "does not agree"),
        (
            [(UNLEARNED, said(KEEPS)), (curve(*[0.0] * 8), said(KEEPS))],
            "cannot tell: too few models with a forecast: 1",
        ),
        ([(curve(*[0.01] * 8), said(KEEPS))] * 8, "cannot tell: too few models with a forecast: 0"),
        ([(RETAINED, {}), (DEGRADED, {})], "cannot tell: too few models with a forecast: 0"),
    ],
)
def test_a_part_of_a_population_is_analysed_with_what_it_lacks_in_words(models, decided, tmp_path):
    """Of one task, with few models, with nothing that degrades, retains or is learned, or without forecasts."""
    members = [made(f"m{place}", end, rate=1e-3 * (1 + place), **told) for place, (end, told) in enumerate(models)]
    found = analyse(members)
    assert sheet_named(found, "The claims of the criterion").rows[1][3] == decided
    cells = [cell for sheet in analysis_tables(found) for row in sheet.rows for cell in row]
    assert not any("nan" in cell.split() for cell in cells)
    assert sheet_named(found, "Main results").rows[6][1].startswith("too few")
    assert all(path.stat().st_size for path in write_analysis(tmp_path, found, members))
