"""What is said of unseen models, what it costs, what swings, and the tables that show it, of models that were made up."""

from __future__ import annotations

import io

import numpy as np
import pytest
from examples_of_populations import KEEPS, LOSES, compared, curve, made, population
from loopscope.reports.prediction import analysis_tables, headline
from loopscope.studies.alone import each_alone
from loopscope.studies.cells import models_table
from loopscope.studies.clocks import MEDIAN_CLOCK, clocks
from loopscope.studies.costs import costs
from loopscope.studies.outcomes import Fate, outcomes
from loopscope.studies.prediction import analyse
from loopscope.studies.predictors import ALL_AXES, ALL_RIVALS, LOOK, MADE_ON, PREDICTORS, REACHABILITY
from loopscope.studies.sensitivity import swings, worst_late
from loopscope.studies.signals import (
    AT_FURTHER,
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
from loopscope.studies.unseen import ALL, Right, mistakes, on_unseen
from rich.console import Console

from loopscope.reports.sheet import Sheet, fit_widths, in_markdown, in_terminal

RUN_30 = f"{LONG_RUN}{AT_FURTHER}"
RIVALS_30 = f"{ALL_RIVALS}{AT_FURTHER}"


def predictor(name):
    return next(one for one in PREDICTORS if one.name == name)


def named(results, name, **others):
    (found,) = [
        one for one in results if one.name == name and all(getattr(one, key) == value for key, value in others.items())
    ]
    return found


def scores_of(members):
    """Return what models are ranked by: the first of each predictor's numbers."""
    rows = {one.name: [one.numbers(member)[0] for member in members] for one in PREDICTORS}
    return {name: np.array([np.nan if value is None else value for value in row]) for name, row in rows.items()}


def test_leaps_are_no_forecast_of_the_models_that_they_were_made_on():
    for study, value in (("other", 0.7), (MADE_ON, None)):
        assert predictor(LEAP_KEPT).numbers(made("a", KEEPS, study=study, **{LEAP_KEPT: 0.7})) == [value]


def test_all_rivals_at_thirty_see_the_run_there_and_pay_once():
    names = (POWER_ITERATION, LAST_RESIDUAL, NORM_RATIO, COSINE, EASY_ACCURACY, LONG_RUN)
    values = dict(zip(names, (0.5, 1e-3, 10.0, 0.9, 0.8, 0.7), strict=True))
    member = made("a", KEEPS, **{f"{name}{AT_FURTHER}": value for name, value in values.items()})
    member.signals[f"{POWER_ITERATION}{AT_FURTHER}"]["seconds"] = 0.8
    together = predictor(RIVALS_30)
    assert together.numbers(member) == pytest.approx([-0.5, 3.0, -1.0, 0.9, 0.8, 0.7])
    assert together.seconds(member) == 0.8
    assert together.at == predictor(LEAP_KEPT).at


def halves():
    """Return as many models that leaps were made on as unseen ones: easy accuracy at 30 iterations tells those alone, the
    residual these alone, leaps all but one of these.
    """
    members = []
    for place in range(32):
        holds, unseen = place % 2 == 0, place >= 16
        members.append(
            made(
                f"m{place}",
                KEEPS if holds else LOSES,
                study="other" if unseen else MADE_ON,
                rate=1e-3 * (1 + place),
                **{
                    f"{EASY_ACCURACY}{AT_FURTHER}": float(holds) if not unseen else 0.5 + 0.01 * (place % 3),
                    f"{LAST_RESIDUAL}{AT_FURTHER}": 10.0 ** -(3 if holds == unseen else 1),
                    LEAP_KEPT: float(holds and place != 16),
                },
            )
        )
    return members


def test_the_best_rival_is_the_best_on_the_models_that_both_know():
    """On all of them easy accuracy would be: half of the models are told without a mistake, the other half by a coin."""
    found = analyse(halves()).performances
    over_all = {name: named(found, f"{name}{AT_FURTHER}").area.value for name in (EASY_ACCURACY, LAST_RESIDUAL)}
    assert over_all[EASY_ACCURACY] > over_all[LAST_RESIDUAL]
    leaps = named(found, LEAP_KEPT)
    assert leaps.area.models == leaps.ahead.models == 16
    assert leaps.rival == f"{LAST_RESIDUAL}{AT_FURTHER}"
    # Of 64 pairs, the one that is missed ties with eight.
    assert leaps.ahead.value == pytest.approx(-4 / 64)


def asked():
    """Return models of two tasks that forecast and a run of 30 iterations were asked of, and one that is not counted."""
    said = [
        *(("chess", KEEPS, 1.0, 0.95) for _ in range(5)),
        ("chess", KEEPS, 0.0, 0.89),
        *(("chess", LOSES, 0.0, 0.5) for _ in range(4)),
        ("sudoku", LOSES, 1.0, 0.3),
        ("sudoku", LOSES, 0.0, 0.9),
    ]
    members = [
        made(f"m{place}", end, task=task, rate=1e-3 * (1 + place), **{
            LEAP_KEEPS: keeps, LEAP_KEPT: keeps, RUN_30: left, LONG_RUN: float(end is KEEPS),
        })
        for place, (task, end, keeps, left) in enumerate(said)
    ]  # fmt: skip
    seen = made("seen", LOSES, task="sudoku", study=MADE_ON, **{LEAP_KEEPS: 1.0, RUN_30: 1.0, LONG_RUN: 1.0})
    return [*members, seen]


def test_what_is_said_of_unseen_models_is_right_or_wrong_by_whether_they_hold():
    members = asked()
    found = on_unseen(compared(members), scores_of(members))
    assert named(found, LEAP_KEPT).right == {ALL: Right(10, 12), "chess": Right(9, 10), "sudoku": Right(1, 2)}
    assert named(found, RUN_30).right == {ALL: Right(10, 12), "chess": Right(9, 10), "sudoku": Right(1, 2)}
    assert named(found, LONG_RUN).right[ALL] == Right(12, 12)
    assert named(found, LONG_RUN).area.value == 1
    # Of 36 pairs, leaps tie in 5 + 5 of one miss on either side, and have one the wrong way round.
    assert named(found, LEAP_KEPT).area.value == pytest.approx((5 * 5 + (5 + 5) / 2) / 36)
    assert named(found, LEAP_KEPT).area.models == 12
    assert named(found, f"{LOOK}{AT_FURTHER}").area.note.startswith("too few")
    assert named(found, f"{COSINE}{AT_FURTHER}").right is None


def test_areas_on_unseen_models_are_of_the_same_ones():
    members = asked()
    del members[0].signals[RUN_30]
    found = on_unseen(compared(members), scores_of(members))
    assert {one.area.models for one in found if one.area.value is not None} == {11}
    assert named(found, LEAP_KEPT).right[ALL].models == 12
    assert named(found, RUN_30).right[ALL].models == 11


def test_the_mistakes_of_leaps_are_named():
    found = [(one.run, one.task, one.said, one.kept, one.fate) for one in mistakes(compared(asked()))]
    assert found == [
        ("m5", "chess", "loses answers", 1.0, Fate.HOLDS),
        ("m10", "sudoku", "keeps its answers", 0.0, Fate.LOSES),
    ]


def test_costs_are_shares_of_running_on_by_task():
    members = [
        made("a", KEEPS, task="chess", **{LEAP_KEPT: 1.0, LONG_RUN: 1.0}),
        made("b", KEEPS, task="chess", **{LEAP_KEPT: 1.0, LONG_RUN: 1.0}),
        made("c", KEEPS, task="sudoku", **{LONG_RUN: 1.0}),
    ]
    for member, seconds in zip(members, (5.0, 10.0, 2.0), strict=True):
        member.signals[LONG_RUN]["seconds"] = seconds
    found = costs(members)
    assert named(found, LEAP_KEPT).shares == {"chess": pytest.approx((0.1 + 0.05) / 2), "sudoku": None}
    # An examination's orbits take a second, all of it four, and a swap was not measured.
    assert named(found, REACHABILITY).shares == {"chess": pytest.approx(0.15), "sudoku": pytest.approx(0.5)}
    assert named(found, ALL_AXES).shares["sudoku"] == pytest.approx(2)


def test_clocks_are_set_by_task_and_without_one_too():
    """Leaps see each fall where it is, of unseen models; sudoku's fall later than those of prefix sums."""
    late = curve(0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    members = [
        made(f"{task}{place}", end, task=task, rate=1e-3 * (1 + place), study=study,
             **{LEAP: 0.0, LEAP_COLLAPSE: float(at)})
        for task, end, at in (("prefix-sums", LOSES, 160), ("sudoku", late, 320))
        for place in range(6)
        for study in (["other", MADE_ON] if task == "sudoku" else ["other"])
    ]  # fmt: skip
    members += [made("chess", LOSES, task="chess", **{LEAP: 0.0, LEAP_COLLAPSE: 40.0})]
    data = compared(members)
    values = {one.name: np.full((len(members), 1), 0.5) for one in PREDICTORS}
    found, later, earlier = clocks(data, values)
    assert (later, earlier) == (19, 0)
    amongs = {"all", "prefix-sums", "sudoku", "all but prefix-sums", "all but sudoku", "all but chess"}
    assert {one.among for one in found} == amongs  # chess alone is too few
    counts = {one.among: one.octaves.models for one in found if one.name == LEAP_COLLAPSE}
    assert counts == {
        "all": 13, "prefix-sums": 6, "sudoku": 6, "all but prefix-sums": 7, "all but sudoku": 7, "all but chess": 12,
    }  # fmt: skip
    assert named(found, LEAP_COLLAPSE, among="all").octaves.value == 0
    # Twelve of eighteen fall at 320, and of whichever are left most do: half of the unseen ones are told an octave late.
    assert named(found, LEAP_COLLAPSE, among="all but chess").gain.value == pytest.approx(0.5)
    for task in ("prefix-sums", "sudoku"):
        assert named(found, MEDIAN_CLOCK, among=task).octaves.value == 0


def test_models_stand_one_by_one_where_their_iterations_of_training_differ():
    members = [
        made("a", KEEPS, task="chess", iterations=8, recall="none"),
        made("b", LOSES, task="chess", iterations=4, seed=1),
        made("c", curve(0.0, 0.0, 0.8, 0.8, 0.8, 0.8, 0.8, 0.6), task="chess", iterations=4),
        made("d", None, task="chess", iterations=8),
        made("e", KEEPS, task="sudoku"),
    ]
    found = models_table(members, outcomes(members))
    assert [(one.recall, one.iterations, one.seed, one.fate) for one in found] == [
        ("internal", 4, 0, Fate.NEVER),
        ("internal", 4, 1, Fate.LOSES),
        ("internal", 8, 0, Fate.FAILED),
        ("none", 8, 0, Fate.HOLDS),
    ]
    assert (found[0].best, found[0].easy, found[0].kept) == (0.8, 0.6, pytest.approx(0.75))
    assert found[2].best is found[2].easy is found[2].kept is None


def test_models_that_hold_by_luck_are_named():
    """Only iterations from 300 on count, and only models that hold."""
    members = [
        made("steady", KEEPS),
        made("late", curve(0.1, 0.5, 1.0, 1.0, 1.0, 0.2, 1.0, 1.0)),
        made("swings", curve(0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 0.89, 0.95), 0.9),
        made("loses", LOSES),
    ]
    (found,) = swings(members, outcomes(members))
    assert (found.run, found.fate) == ("swings", Fate.EXTRAPOLATES)
    assert (found.kept, found.worst) == pytest.approx((0.95, 0.89))
    assert worst_late(LOSES) == 0


def test_each_measurement_points_where_its_meaning_says():
    members = [
        made(f"m{place}", KEEPS if holds else LOSES, rate=1e-3 * (1 + place), **{
            SLOPE: -1.0 if holds else 0.5,
            f"{SLOPE}{AT_FURTHER}": 1.0 if holds else 0.5,
            RANDOM_ANSWER: 0.9 if holds else 0.1,
        })
        for place, holds in enumerate([True, False] * 6)
    ]  # fmt: skip
    for member in members:
        member.forecast["lyapunov"] = -0.1 if member.easy is KEEPS else 0.1
        member.forecast["growth"] = 0.0
    found = each_alone(compared(members))
    slope = named(found, SLOPE)
    assert (slope.trained.value, slope.further.value, slope.trained.models) == (1, 0, 12)
    assert named(found, RANDOM_ANSWER).trained.value == 1
    assert named(found, "finite-time exponent").trained.value == 1
    assert named(found, "finite-time exponent").further is None
    assert named(found, "growth of the state").trained.value == 0.5
    assert named(found, "fraction returned to its basin").trained.note == "too few: 0 hold, 0 do not"


SHEET = Sheet("A title", ["name", "a | b"], [["one|two", "1"], ["three", ""]], "How to read it.")


def test_a_sheet_as_markdown():
    assert in_markdown(SHEET) == (
        "### A title\n\n| name | a \\| b |\n|---|---|\n| one\\|two | 1 |\n| three |  |\n\nHow to read it.\n"
    )
    assert in_markdown(Sheet("T", ["a"], [])) == "### T\n\n| a |\n|---|\n"


def test_columns_share_what_room_there_is():
    assert fit_widths([3, 4], [9, 8], 40) == [9, 8]
    assert fit_widths([3, 4], [9, 8], 12) == [6, 6]
    assert fit_widths([3, 6], [20, 6], 12) == [6, 6]
    assert fit_widths([12, 4], [20, 6], 10) == [6, 4]
    assert fit_widths([5, 5], [5, 5], 1) == [1, 1]


def shown(sheet, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(in_terminal(sheet, width))
    return console.export_text()


def test_nothing_is_cut_in_a_terminal():
    words = ["extrapolates", "small-sudoku", "reachability", "normalization", "initialization"]
    said = shown(Sheet("T", words, [["a long name of many words"] + ["0.96 [0.91, 1.00]"] * 4]), 60)
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 60
    for word in ("many", "words", "0.96", "[0.91,", "1.00]"):
        assert word in said
    # Five columns of twelve and more have no room: words are folded, and all of their letters are there.
    letters = sorted(filter(str.isalpha, f"T{''.join(words)}a long name of many words"))
    assert sorted(filter(str.isalpha, said)) == letters


def test_names_are_whole_where_their_words_have_room():
    said = shown(Sheet("T", ["predictor", "a", "b"], [["a brief look at " * 8, "small-sudoku", "x" * 40]]), 80)
    assert "small-sudoku" in said
    assert "x" * 40 in said


@pytest.fixture(scope="module")
def analysis():
    leapt = [
        made(f"leapt{place}", end, task="chess", rate=1e-3 * (1 + place), iterations=8 + place % 2, seed=place,
             **{LEAP_KEPT: float(end is KEEPS), LEAP_KEEPS: float(end is KEEPS), RUN_30: 0.5})
        for place, end in enumerate([KEEPS, LOSES] * 6)
    ]  # fmt: skip
    return analyse([*population(), *leapt])


def sheet_named(analysis, title):
    (found,) = [sheet for sheet in analysis_tables(analysis) if sheet.title == title]
    return found


def test_the_headline_is_a_few_short_lines(analysis):
    lines = headline(analysis).splitlines()
    assert lines[:2] == ["What was said of unseen models that solve their task came true:", f"  {LEAP_KEPT}: 12 of 12"]
    assert f"  {RUN_30}: 6 of 12" in lines
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 8


def test_calibration_counts_every_bin(analysis):
    rows = [row for row in sheet_named(analysis, "Calibration").rows if row[0] == LEAP_KEPT]
    assert len(rows) == 5
    assert sum(int(models) for _, _, models, *_ in rows) == 12
    assert rows[0][1] == "0.0 to 20.0"
    for _, _, models, forecast, _ in rows:
        assert (forecast == "–") == (models == "0")


def test_every_table_is_made_and_whole(analysis):
    titles = [sheet.title for sheet in analysis_tables(analysis)]
    assert len(set(titles)) == len(titles)
    for title in (
        "On the unseen models",
        "What came true of what was said of the unseen models",
        "What leaps say wrongly",
        "What a forecast costs, % of the time of running on",
        "Each measurement alone",
        "chess, model by model",
        "Models that hold by the luck of the last iteration",
        "prefix-sums: what solved and kept it",
    ):
        assert title in titles
    for sheet in analysis_tables(analysis):
        assert {len(row) for row in sheet.rows} <= {len(sheet.columns)}
    said = sheet_named(analysis, "What came true of what was said of the unseen models").rows
    assert [LEAP_KEPT, "12 of 12", "–", "12 of 12"] in [list(row) for row in said]
