"""The claims of the criterion, judged each way for made-up numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.prediction.analysis.forecasts import study_forecasts
from experiments.prediction.analysis.judgement import (
    AXES_LEAD,
    BEATS_RUNNING_ON,
    DECIDES,
    IS_CHEAP,
    IS_RIGHT,
    MODELS,
    VERDICT_COMES_TRUE,
    judge_claims,
)
from experiments.prediction.analysis.outcomes import results_of
from experiments.prediction.analysis.performance import HeadToHead
from experiments.prediction.analysis.statistics import Estimate, share, too_few
from experiments.prediction.analysis.thresholds import VerdictScore
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
from loopscope.studies import read_plan

HERE = Path(__file__).parents[1]
CLAIMS = (IS_RIGHT, DECIDES, IS_CHEAP, BEATS_RUNNING_ON, AXES_LEAD, VERDICT_COMES_TRUE)
NONE = too_few("0 retain, 0 do not", 0)


def axes(lead: float, low: float | None) -> HeadToHead:
    area = Estimate(0.9, 0.8, 1.0, 40)
    return HeadToHead(area, Estimate(0.9 - lead, 0.7, 0.9, 40), Estimate(lead, low, lead + 0.1, 40))


def verdict(models: int, decided: float | None, right: float | None) -> VerdictScore:
    return VerdictScore("all iterations", "priors", {}, Estimate(0.8, 0.7, 0.9, models), decided, right)


LEADING, TRUE = axes(0.1, 0.05), verdict(40, 0.8, 0.9)


def judged(models, against=LEADING, score=TRUE):
    """Return the judgements on some forecasts, by claim."""
    members = [
        made(f"m{place}", end, rate=1e-3 * (1 + place), **signals) for place, (end, signals) in enumerate(models)
    ]
    found = judge_claims(study_forecasts(members, results_of(members)), against, score)
    assert [one.claim for one in found] == list(CLAIMS)
    return {one.claim: one for one in found}


def right(count: int, **others):
    return [(RETAINED, said(KEEPS, **others)) for _ in range(count)]


def wrong(count: int, **others):
    return [(RETAINED, said(COLLAPSES, **others)) for _ in range(count)]


def undecided(count: int, **others):
    return [(RETAINED, said(CANNOT_TELL, **others)) for _ in range(count)]


def test_the_claims_are_those_of_the_criterion():
    lines = (HERE / "criterion.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert rows[1:] == [[one.name, one.agrees_if] for one in CLAIMS]


def test_the_criterion_speaks_of_all_looped_runs_of_the_configs():
    runs = [run for path in (HERE / "configs").glob("*.yaml") for run in read_plan(path).runs]
    assert sum(run.settings.model.architecture == "looped" for run in runs) == MODELS


@pytest.mark.parametrize(("models", "agrees"), [(right(19) + wrong(1), True), (right(18) + wrong(1), False)])
def test_decided_forecasts_are_right_from_95_percent_on(models, agrees):
    """Undecided models and those that did not learn do not count."""
    found = judged([*models, *undecided(30), (UNLEARNED, said(COLLAPSES))])[IS_RIGHT]
    assert found.agrees is agrees
    assert found.found == {"right": share(len(models) - 1, len(models))}


@pytest.mark.parametrize(("models", "agrees"), [(right(17) + undecided(3), True), (right(16) + undecided(3), False)])
def test_forecasts_decide_from_85_percent_on(models, agrees):
    found = judged([*models, (UNLEARNED, said(CANNOT_TELL))])[DECIDES]
    assert found.agrees is agrees
    assert found.found == {"decided": share(len(models) - 3, len(models))}


@pytest.mark.parametrize(("steps", "agrees"), [(100, True), (101, False)])
def test_forecasts_cost_little_up_to_a_fifth_of_the_steps(steps, agrees):
    found = judged([*right(6, steps=50), *undecided(1, steps=steps)])[IS_CHEAP]
    assert found.agrees is agrees
    assert found.found == pytest.approx({"median": 0.1, "largest": steps / 500})


def test_forecasts_beat_running_on_if_more_are_right_where_both_decide():
    """Running on for as many steps is wrong of one decided model and right of one undecided model."""
    found = judged([*right(4), *right(1, run=0.89), *undecided(1)])[BEATS_RUNNING_ON]
    assert found.agrees is True
    assert found.found == {
        "forecast": share(5, 5),
        "running on as many steps": share(4, 5),
        "running on as many steps, where the forecast is undecided": share(1, 1),
        "running on to the end": share(5, 5),
    }


def test_as_many_right_as_running_on_is_not_better():
    assert judged([*right(4), *right(1, run=0.9), *undecided(1, run=0.1)])[BEATS_RUNNING_ON].agrees is False
    degraded = (DEGRADED, said(KEEPS, run=0.1))
    assert judged([*right(5), degraded])[BEATS_RUNNING_ON].agrees is False


@pytest.mark.parametrize(
    ("against", "agrees", "reason"),
    [
        (axes(0.1, 0.01), True, ""),
        (axes(0.1, -0.01), False, ""),
        (axes(0.1, 0.0), False, ""),
        (axes(-0.1, -0.2), False, ""),
        (axes(0.1, None), None, "the lead has no interval"),
        (HeadToHead(NONE, NONE, NONE), None, "too few: 0 retain, 0 do not"),
    ],
)
def test_the_axes_tell_more_if_their_lead_excludes_0(against, agrees, reason):
    found = judged(right(5), against=against)[AXES_LEAD]
    assert (found.agrees, found.reason) == (agrees, reason)


@pytest.mark.parametrize(
    ("score", "agrees", "reason"),
    [
        (verdict(40, 0.8, 0.9), True, ""),
        (verdict(40, 0.79, 1.0), False, ""),
        (verdict(40, 1.0, 0.89), False, ""),
        (verdict(40, 0.0, None), False, ""),
        (verdict(4, 1.0, 1.0), None, "too few models with a verdict: 4"),
        (verdict(0, None, None), None, "too few models with a verdict: 0"),
    ],
)
def test_the_verdict_comes_true_if_it_decides_80_percent_and_is_right_of_90(score, agrees, reason):
    found = judged(right(5), score=score)[VERDICT_COMES_TRUE]
    assert (found.agrees, found.reason) == (agrees, reason)


def test_too_few_models_are_not_judged():
    found = judged([*right(4), *undecided(1)])
    assert {one.reason for one in (found[IS_RIGHT], found[BEATS_RUNNING_ON])} == {"too few decided forecasts: 4"}
    assert found[DECIDES].agrees is False
    assert judged(right(4))[DECIDES].reason == judged(right(4))[IS_CHEAP].reason == "too few models with a forecast: 4"


def test_claims_about_forecasts_are_not_judged_where_one_was_not_measured():
    found = judged([*right(10), (RETAINED, {})])
    for claim in (IS_RIGHT, DECIDES, IS_CHEAP, BEATS_RUNNING_ON):
        assert found[claim].agrees is None
        assert found[claim].reason == "not measured: 1 of 11 models that solve their task"
