"""Forecasts of made-up models against what they did, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.prediction.analysis.forecasts import (
    ALL,
    EVERY_MODEL,
    answer_of,
    keeps_of,
    study_forecasts,
)
from experiments.prediction.analysis.outcomes import Outcome, results_of
from experiments.prediction.analysis.statistics import share
from experiments.prediction.signals import FORECAST, LONG_RUN, SAME_STEPS
from experiments.prediction.tests.populations import (
    CANNOT_TELL,
    COLLAPSES,
    DEGRADED,
    KEEPS,
    RETAINED,
    UNLEARNED,
    made,
    said,
)


def asked():
    """Return models of two tasks and three studies: six decided rightly, two wrongly, two undecided, one that did not learn."""
    models = [
        ("a", "chess", "chess", RETAINED, said(KEEPS, 60, run=0.95)),
        ("b", "chess", "chess", RETAINED, said(KEEPS, 60, run=0.89)),
        ("c", "chess", "chess-short", DEGRADED, said(KEEPS, 100, run=0.9, end=0.0)),
        ("d", "chess", "chess-short", DEGRADED, said(COLLAPSES, 50, run=0.95, end=0.0)),
        ("e", "chess", "chess-short", DEGRADED, said(CANNOT_TELL, 100, run=0.2, end=0.0)),
        ("f", "sudoku", "sudoku", RETAINED, said(COLLAPSES, 40, run=0.91, end=0.92)),
        ("g", "sudoku", "sudoku", RETAINED, said(CANNOT_TELL, 100, run=0.5)),
        ("h", "sudoku", "sudoku", DEGRADED, said(COLLAPSES, 66, run=0.0, end=0.95)),
        ("i", "sudoku", "sudoku", DEGRADED, said(COLLAPSES, 66, run=0.0, end=0.0)),
        ("j", "sudoku", "sudoku", RETAINED, said(KEEPS, 66)),
        ("k", "sudoku", "sudoku", UNLEARNED, said(KEEPS, 101)),
    ]
    return [
        made(run, end, task=task, study=study, rate=1e-3 * (1 + place), **signals)
        for place, (run, task, study, end, signals) in enumerate(models)
    ]


def studied(members):
    return study_forecasts(members, results_of(members))


def test_an_answer_is_undecided_only_if_the_forecast_was_measured():
    answers = [made("a", RETAINED, **said(one)) for one in (KEEPS, COLLAPSES, CANNOT_TELL)]
    assert [answer_of(one) for one in answers] == [KEEPS, COLLAPSES, CANNOT_TELL]
    assert [keeps_of(one) for one in answers] == [True, False, None]
    assert answer_of(made("b", RETAINED)) is keeps_of(made("b", RETAINED)) is None


def test_forecasts_are_counted_on_all_models_by_task_and_by_study():
    found = studied(asked())
    assert found.solving == 10
    assert {one.group: (one.models, one.decided, one.right) for one in found.counts} == {
        ALL: (10, share(8, 10), share(6, 8)),
        "chess": (5, share(4, 5), share(3, 4)),
        "sudoku": (5, share(4, 5), share(3, 4)),
        "study chess": (2, share(2, 2), share(2, 2)),
        "study chess-short": (3, share(2, 3), share(1, 2)),
        "study sudoku": (5, share(4, 5), share(3, 4)),
    }
    assert found.counts[0].group == ALL


def test_answers_are_counted_by_task_and_recall():
    """With another recall for the odd ones: a, c, e and g, i, k."""
    members = [
        replace(one, settings={**one.settings, "model": {"recall": "none", "norm": "outer"}}) if place % 2 == 0 else one
        for place, one in enumerate(asked())
    ]
    assert {one.group: (one.keeps, one.collapses) for one in studied(members).by_recall} == {
        "chess, no recall": (share(1, 2), share(0, 0)),
        "chess, internal recall": (share(1, 1), share(1, 1)),
        "sudoku, internal recall": (share(1, 1), share(1, 2)),
        "sudoku, no recall": (share(0, 0), share(1, 1)),
    }


def test_running_on_is_counted_on_the_same_models():
    """Running on for as many steps is wrong of b (0.89 of a model that retains), c and d, and of g; to the end, of h."""
    found = studied(asked())
    shares = {name: found.rule(name) for name in (FORECAST, SAME_STEPS, LONG_RUN)}
    assert {name: (one.models, one.decided, one.undecided) for name, one in shares.items()} == {
        FORECAST: (share(6, 10), share(6, 8), share(0, 2)),
        SAME_STEPS: (share(6, 10), share(5, 8), share(1, 2)),
        LONG_RUN: (share(9, 10), share(7, 8), share(2, 2)),
    }
    of_chess = {one.name: one.models for one in found.rules if one.group == "chess"}
    assert of_chess == {FORECAST: share(3, 5), SAME_STEPS: share(2, 5), LONG_RUN: share(5, 5)}


def test_wrong_and_undecided_models_are_listed():
    found = studied(asked())
    assert [(one.run, one.task, one.answer, one.run_on, one.retained, one.outcome) for one in found.wrong] == [
        ("c", "chess", "keeps", 0.0, 0.0, Outcome.DEGRADES),
        ("f", "sudoku", "collapses", 0.92, 1.0, Outcome.RETAINS),
    ]
    assert [(one.run, one.answer, one.least, one.most, one.run_on, one.retained) for one in found.undecided] == [
        ("e", "cannot tell", 0.8, 0.95, 0.0, 0.0),
        ("g", "cannot tell", 0.8, 0.95, 1.0, 1.0),
    ]


def test_outcomes_are_counted_by_answer_for_all_models():
    found = studied([*asked(), made("l", None), made("m", RETAINED, task="chess")]).answers
    assert found == {
        "keeps": {"retains": 3, "degrades": 1, "not learned": 1},
        "collapses": {"retains": 1, "degrades": 3},
        "cannot tell": {"degrades": 1, "retains": 1},
        "not measured": {"failed": 1, "retains": 1},
    }


def test_a_model_without_a_forecast_is_neither_decided_nor_undecided():
    found = studied([*asked(), made("m", RETAINED, task="chess", **{LONG_RUN: 1.0})])
    assert found.solving == 11
    assert found.counts[0].models == 10
    assert found.rule(LONG_RUN).models.total == 10
    assert len(found.undecided) == 2


def test_costs_are_shares_of_the_steps_and_of_the_time_to_the_end():
    members = asked()
    for member in members:
        member.signals[LONG_RUN]["seconds"] = 2.0 if member.task == "chess" else 10.0
    found = {one.group: one for one in studied(members).costs}
    # Steps of models that solve their task: 40 50 60 60 66 66 66 100 100 100 of 500. The model that did not learn took 101.
    assert (found[ALL].models, found[ALL].median, found[ALL].largest) == (10, pytest.approx(0.132), 0.2)
    assert (found["chess"].median, found["chess"].largest) == pytest.approx((0.12, 0.2))
    assert (found[EVERY_MODEL].models, found[EVERY_MODEL].largest) == (11, 0.202)
    assert (found["chess"].seconds, found["sudoku"].seconds) == pytest.approx((0.25, 0.05))


def test_no_forecast_at_all_counts_nothing():
    found = studied([made("a", RETAINED), made("b", DEGRADED)])
    assert found.counts[0].models == 0
    assert found.counts[0].decided.value is found.costs[0].largest is found.rule(SAME_STEPS).models.value is None
    assert found.wrong == found.undecided == []
