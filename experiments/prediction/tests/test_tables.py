"""Forecasts of unseen models, costs, collapse times, single signals, and the tables that show them, for made-up models."""

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
    DEVELOPED_ON,
    PREDICTORS,
    REACHABILITY,
    RESTARTS,
)
from experiments.prediction.analysis.single_signals import single_signals
from experiments.prediction.analysis.unseen import ALL, Right, mistakes, unseen_performances
from experiments.prediction.report.tables import analysis_tables, summary
from experiments.prediction.signals import (
    AT_BUDGET,
    COSINE,
    EASY_ACCURACY,
    LAST_RESIDUAL,
    LEAP,
    LEAP_COLLAPSE,
    LEAP_KEEPS,
    LEAP_KEPT,
    LONG_RUN,
    NORM_RATIO,
    POWER_ITERATION,
    RANDOM_ANSWER,
    SLOPE,
)
from experiments.prediction.tests.populations import DEGRADED, RETAINED, curve, made, population, sample

RUN_30 = f"{LONG_RUN}{AT_BUDGET}"
RIVALS_30 = f"{ALL_RIVALS}{AT_BUDGET}"


def predictor(name):
    return next(one for one in PREDICTORS if one.name == name)


def named(results, name, **others):
    (found,) = [
        one for one in results if one.name == name and all(getattr(one, key) == value for key, value in others.items())
    ]
    return found


def scores_of(members):
    """Return the numbers that models are ranked by: the first of each predictor."""
    rows = {one.name: [one.numbers(member)[0] for member in members] for one in PREDICTORS}
    return {name: np.array([np.nan if value is None else value for value in row]) for name, row in rows.items()}


def test_leaps_are_not_a_forecast_for_the_models_that_they_were_developed_on():
    for study, value in (("other", 0.7), (DEVELOPED_ON, None)):
        assert predictor(LEAP_KEPT).numbers(made("a", RETAINED, study=study, **{LEAP_KEPT: 0.7})) == [value]


def test_all_rivals_at_30_iterations_see_running_on_and_pay_once():
    names = (POWER_ITERATION, LAST_RESIDUAL, NORM_RATIO, COSINE, EASY_ACCURACY, LONG_RUN)
    values = dict(zip(names, (0.5, 1e-3, 10.0, 0.9, 0.8, 0.7), strict=True))
    member = made("a", RETAINED, **{f"{name}{AT_BUDGET}": value for name, value in values.items()})
    member.signals[f"{POWER_ITERATION}{AT_BUDGET}"]["seconds"] = 0.8
    together = predictor(RIVALS_30)
    assert together.numbers(member) == pytest.approx([-0.5, 3.0, -1.0, 0.9, 0.8, 0.7])
    assert together.seconds(member) == 0.8
    assert together.at == predictor(LEAP_KEPT).at


def halves():
    """Return 16 models that leaps were developed on and 16 unseen ones.

    Easy accuracy at 30 iterations tells the former apart, the residual the latter, and leaps all but one of the latter.
    """
    members = []
    for place in range(32):
        retains, unseen = place % 2 == 0, place >= 16
        members.append(
            made(
                f"m{place}",
                RETAINED if retains else DEGRADED,
                study="other" if unseen else DEVELOPED_ON,
                rate=1e-3 * (1 + place),
                **{
                    f"{EASY_ACCURACY}{AT_BUDGET}": float(retains) if not unseen else 0.5 + 0.01 * (place % 3),
                    f"{LAST_RESIDUAL}{AT_BUDGET}": 10.0 ** -(3 if retains == unseen else 1),
                    LEAP_KEPT: float(retains and place != 16),
                },
            )
        )
    return members


def test_the_best_rival_is_the_best_on_the_models_that_both_know():
    """Over all models it would be easy accuracy, which is perfect on one half of them and a coin on the other."""
    found = analyse(halves()).performances
    over_all = {name: named(found, f"{name}{AT_BUDGET}").area.value for name in (EASY_ACCURACY, LAST_RESIDUAL)}
    assert over_all[EASY_ACCURACY] > over_all[LAST_RESIDUAL]
    leaps = named(found, LEAP_KEPT)
    assert leaps.area.models == leaps.lead.models == 16
    assert leaps.rival == f"{LAST_RESIDUAL}{AT_BUDGET}"
    # Of 64 pairs, leaps tie in the eight with the model that they miss.
    assert leaps.lead.value == pytest.approx(-4 / 64)


def asked():
    """Return models of two tasks with the answers of leaps and of 30 iterations, and one model that is not counted."""
    answers = [
        *(("chess", RETAINED, 1.0, 0.95) for _ in range(5)),
        ("chess", RETAINED, 0.0, 0.89),
        *(("chess", DEGRADED, 0.0, 0.5) for _ in range(4)),
        ("sudoku", DEGRADED, 1.0, 0.3),
        ("sudoku", DEGRADED, 0.0, 0.9),
    ]
    members = [
        made(f"m{place}", end, task=task, rate=1e-3 * (1 + place), **{
            LEAP_KEEPS: keeps, LEAP_KEPT: keeps, RUN_30: left, LONG_RUN: float(end is RETAINED),
        })
        for place, (task, end, keeps, left) in enumerate(answers)
    ]  # fmt: skip
    seen = made("seen", DEGRADED, task="sudoku", study=DEVELOPED_ON, **{LEAP_KEEPS: 1.0, RUN_30: 1.0, LONG_RUN: 1.0})
    return [*members, seen]


def test_an_answer_is_right_if_it_agrees_with_retained_accuracy():
    members = asked()
    found = unseen_performances(sample(members), scores_of(members))
    assert named(found, LEAP_KEPT).right == {ALL: Right(10, 12), "chess": Right(9, 10), "sudoku": Right(1, 2)}
    assert named(found, RUN_30).right == {ALL: Right(10, 12), "chess": Right(9, 10), "sudoku": Right(1, 2)}
    assert named(found, LONG_RUN).right[ALL] == Right(12, 12)
    assert named(found, LONG_RUN).area.value == 1
    # Of 36 pairs, leaps order 25, tie in 5 + 5 (one mistake on either side), and invert one.
    assert named(found, LEAP_KEPT).area.value == pytest.approx((5 * 5 + (5 + 5) / 2) / 36)
    assert named(found, LEAP_KEPT).area.models == 12
    assert named(found, f"{RESTARTS}{AT_BUDGET}").area.note.startswith("too few")
    assert named(found, f"{COSINE}{AT_BUDGET}").right is None


def test_areas_on_unseen_models_are_of_the_same_models():
    members = asked()
    del members[0].signals[RUN_30]
    found = unseen_performances(sample(members), scores_of(members))
    assert {one.area.models for one in found if one.area.value is not None} == {11}
    assert named(found, LEAP_KEPT).right[ALL].models == 12
    assert named(found, RUN_30).right[ALL].models == 11


def test_wrong_answers_of_leaps_are_listed():
    found = [(one.run, one.task, one.answer, one.retained, one.outcome) for one in mistakes(sample(asked()))]
    assert found == [
        ("m5", "chess", "loses its answers", 1.0, Outcome.RETAINS),
        ("m10", "sudoku", "keeps its answers", 0.0, Outcome.DEGRADES),
    ]


def test_costs_are_shares_of_running_on_by_task():
    members = [
        made("a", RETAINED, task="chess", **{LEAP_KEPT: 1.0, LONG_RUN: 1.0}),
        made("b", RETAINED, task="chess", **{LEAP_KEPT: 1.0, LONG_RUN: 1.0}),
        made("c", RETAINED, task="sudoku", **{LONG_RUN: 1.0}),
    ]
    for member, seconds in zip(members, (5.0, 10.0, 2.0), strict=True):
        member.signals[LONG_RUN]["seconds"] = seconds
    found = costs(members)
    assert named(found, LEAP_KEPT).shares == {"chess": pytest.approx((0.1 + 0.05) / 2), "sudoku": None}
    # The orbits of an examination take one second and all of it four. A swap was not measured.
    assert named(found, REACHABILITY).shares == {"chess": pytest.approx(0.15), "sudoku": pytest.approx(0.5)}
    assert named(found, ALL_AXES).shares["sudoku"] == pytest.approx(2)


def test_collapse_times_are_predicted_for_all_tasks_for_each_and_for_all_but_each():
    """Leaps see the collapse of unseen models where it is. Models of sudoku collapse later than those of prefix sums."""
    late = curve(0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    members = [
        made(f"{task}{place}", end, task=task, rate=1e-3 * (1 + place), study=study,
             **{LEAP: 0.0, LEAP_COLLAPSE: float(at)})
        for task, end, at in (("prefix-sums", DEGRADED, 160), ("sudoku", late, 320))
        for place in range(6)
        for study in (["other", DEVELOPED_ON] if task == "sudoku" else ["other"])
    ]  # fmt: skip
    members += [made("chess", DEGRADED, task="chess", **{LEAP: 0.0, LEAP_COLLAPSE: 40.0})]
    data = sample(members)
    values = {one.name: np.full((len(members), 1), 0.5) for one in PREDICTORS}
    times = collapse_times(data, values)
    found = times.predictions
    assert (times.later, times.earlier) == (19, 0)
    amongs = {"all", "prefix-sums", "sudoku", "all but prefix-sums", "all but sudoku", "all but chess"}
    assert {one.among for one in found} == amongs  # a single model of chess is too few
    counts = {one.among: one.error.models for one in found if one.name == LEAP_COLLAPSE}
    assert counts == {
        "all": 13, "prefix-sums": 6, "sudoku": 6, "all but prefix-sums": 7, "all but sudoku": 7, "all but chess": 12,
    }  # fmt: skip
    assert named(found, LEAP_COLLAPSE, among="all").error.value == 0
    # Twelve of eighteen collapse at 320, so the median of the others is 320: an octave late for half of the unseen models.
    assert named(found, LEAP_COLLAPSE, among="all but chess").gain.value == pytest.approx(0.5)
    for task in ("prefix-sums", "sudoku"):
        assert named(found, MEDIAN, among=task).error.value == 0


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
    leapt = [
        made(f"leapt{place}", end, task="chess", rate=1e-3 * (1 + place), iterations=8 + place % 2, seed=place,
             **{LEAP_KEPT: float(end is RETAINED), LEAP_KEEPS: float(end is RETAINED), RUN_30: 0.5})
        for place, end in enumerate([RETAINED, DEGRADED] * 6)
    ]  # fmt: skip
    return analyse([*population(), *leapt])


def sheet_named(analysis, title):
    (found,) = [sheet for sheet in analysis_tables(analysis) if sheet.title == title]
    return found


def test_the_summary_is_a_few_short_lines(analysis):
    lines = summary(analysis).splitlines()
    assert lines[:2] == [
        "Answers that came true, for unseen models that solve their task:",
        f"  {LEAP_KEPT}: 12 of 12",
    ]
    assert f"  {RUN_30}: 6 of 12" in lines
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 8


def test_calibration_counts_every_bin(analysis):
    rows = [row for row in sheet_named(analysis, "Calibration").rows if row[0] == LEAP_KEPT]
    assert len(rows) == 5
    assert sum(int(models) for _, _, models, *_ in rows) == 12
    assert rows[0][1] == "0.0 to 20.0"
    for _, _, models, predicted, _ in rows:
        assert (predicted == "–") == (models == "0")


def test_every_table_is_complete(analysis):
    titles = [sheet.title for sheet in analysis_tables(analysis)]
    assert len(set(titles)) == len(titles)
    for title in (
        "Unseen models: area under the ROC curve",
        "Unseen models: how often the answer came true",
        "Wrong answers of leaps",
        "Cost of a forecast, % of the time of running on",
        "Every measurement on its own",
        "chess, model by model",
        "Models that retain their accuracy only at the last iteration",
        "prefix-sums: design choices that retained their accuracy",
    ):
        assert title in titles
    for sheet in analysis_tables(analysis):
        assert {len(row) for row in sheet.rows} <= {len(sheet.columns)}
    rows = sheet_named(analysis, "Unseen models: how often the answer came true").rows
    assert [LEAP_KEPT, "12 of 12", "–", "12 of 12"] in [list(row) for row in rows]
