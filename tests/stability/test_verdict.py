"""What each axis says, and what the three say together, case by case."""

import math
from dataclasses import replace

import pytest

from loopscope.stability.verdict import (
    ANSWERS_STAND,
    PRIORS,
    TESTED_ON,
    THRESHOLDS,
    Axis,
    Status,
    fitted_on,
    is_provisional,
    judge,
    judge_geometry,
    judge_reachability,
    priors_of,
    verdict,
)

STAYED, PATH, STAND = "fails: shared", "fails: path", "fails: answers stand"


def axis(said):
    """An axis that says so; axis 2 also says why it fails, and axis 1 whether answers stand all the same."""
    numbers = {"fraction moved": 0.0, "fraction shared": {STAYED: 0.6, PATH: 0.4}.get(said)}
    numbers[ANSWERS_STAND] = 0.9 if said == STAND else 0.89
    return Axis("any", Status(said.partition(":")[0]), numbers, "")


@pytest.mark.parametrize(
    ("reach", "depends", "smooth", "accuracy", "expected"),
    [
        ("holds", "holds", "holds", 0.95, "stable and accurate"),
        ("holds", "holds", "holds", None, "stable"),
        ("holds", "holds", "holds", 0.2, "stable"),
        ("holds", STAYED, "holds", 0.95, "input-independent"),
        ("holds", STAYED, "fails", None, "input-independent"),
        ("holds", PATH, "holds", 0.95, "path-dependent"),
        ("holds", PATH, "fails", None, "path-dependent"),
        ("holds", "holds", "fails", 0.95, "fragile"),
        ("fails", "holds", "holds", 0.95, "unstable"),
        ("borderline", "holds", "holds", 0.95, "undecided"),
        ("unknown", "fails", "fails", None, "undecided"),
        ("holds", "unknown", "holds", None, "undecided"),
        ("holds", "borderline", "holds", None, "undecided"),
        ("holds", "holds", "borderline", None, "undecided"),
        ("holds", "holds", "unknown", None, "undecided"),
        ("fails", "fails", "fails", None, "unstable"),
        ("fails", "unknown", "unknown", None, "unstable"),
        ("holds", STAYED, "unknown", None, "input-independent"),
        ("borderline", PATH, "holds", None, "undecided"),
        (STAND, "unknown", "unknown", 0.95, "never settles but keeps its answer"),
        (STAND, STAYED, "fails", 0.9, "never settles but keeps its answer"),
        (STAND, "holds", "holds", 0.89, "unstable"),
        (STAND, "holds", "holds", None, "unstable"),
    ],
)
def test_axes_add_up_to_a_verdict(reach, depends, smooth, accuracy, expected):
    found = verdict(axis(reach), axis(depends), axis(smooth), accuracy)
    assert found.value == expected


@pytest.mark.parametrize("measure", list(THRESHOLDS))
def test_a_threshold_holds_at_its_own_values(measure):
    limit = THRESHOLDS[measure]
    assert limit.status(limit.holds) is Status.HOLDS
    assert limit.status(limit.fails) is Status.FAILS
    assert limit.status((limit.holds + limit.fails) / 2) is Status.BORDERLINE
    assert limit.status(None) is Status.UNKNOWN
    assert limit.status(math.nan) is Status.UNKNOWN


def test_an_axis_without_numbers_says_nothing():
    assert judge("geometry", {}, "").status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("radius", "lipschitz", "expected"),
    [
        (0.99, 100.0, "holds"),
        (0.995, 1.0, "borderline"),
        (0.5, 1e3, "borderline"),
        (0.995, None, "unknown"),
        (1.0, None, "fails"),
        (None, 1e4, "fails"),
        (math.nan, 1.0, "unknown"),
    ],
)
def test_one_number_is_enough_to_fail_and_one_missing_to_leave_it_open(radius, lipschitz, expected):
    axis = judge("geometry", {"radius": radius, "relative Lipschitz constant": lipschitz}, "why")
    assert axis.status.value == expected
    assert axis.reason == "why"


@pytest.mark.parametrize(
    ("arrived", "expected"), [(0.95, "holds"), (0.7, "borderline"), (0.4, "fails"), (None, "unknown")]
)
@pytest.mark.parametrize("stand", [0.0, 1.0, None])
def test_only_states_decide_reachability(arrived, stand, expected, monkeypatch):
    monkeypatch.setitem(THRESHOLDS, "fraction arrived", PRIORS["fraction arrived"])
    numbers = {"fraction arrived": arrived, ANSWERS_STAND: stand}
    axis = judge_reachability(numbers, "why")
    assert (axis.status.value, axis.numbers, axis.reason) == (expected, numbers, "why")


def test_easy_accuracy_decides_at_its_threshold():
    three = [axis(Status.HOLDS)] * 3
    limit = THRESHOLDS["easy accuracy"].holds
    assert verdict(*three, limit).value == "stable and accurate"
    assert verdict(*three, limit - 1e-6).value == "stable"


def test_a_verdict_is_provisional_while_a_prior_was_compared(monkeypatch):
    reach = judge("reachability", {"fraction arrived": 1.0}, "")
    smooth = judge("geometry", {"radius": 0.5, "relative Lipschitz constant": 1.0}, "")
    assert is_provisional(reach, smooth, easy_accuracy=None)
    for measure in (*reach.numbers, *smooth.numbers):
        assert is_provisional(reach, smooth, easy_accuracy=None)
        monkeypatch.setitem(THRESHOLDS, measure, replace(THRESHOLDS[measure], origin="fitted on 24 models"))
    assert not is_provisional(reach, smooth, easy_accuracy=None)
    assert is_provisional(reach, smooth, easy_accuracy=0.95)


@pytest.mark.parametrize("measure", list(THRESHOLDS))
def test_a_threshold_says_where_it_comes_from(measure):
    limit = THRESHOLDS[measure]
    assert limit.measure == measure
    assert limit.origin
    assert limit.why
    assert (limit.holds > limit.fails) == (limit.larger_is == "better")


def test_thresholds_that_were_fitted_name_their_models(monkeypatch):
    axes = (
        judge("reachability", {"fraction arrived": 1.0}, ""),
        judge("geometry", {"radius": 0.5, "relative Lipschitz constant": 1.0}, ""),
    )
    for measure, prior in PRIORS.items():
        monkeypatch.setitem(THRESHOLDS, measure, prior)
    assert fitted_on(axes) == {}
    assert priors_of(axes) == "its thresholds are priors"
    half = f"half of {TESTED_ON}"
    monkeypatch.setitem(THRESHOLDS, "fraction arrived", replace(PRIORS["fraction arrived"], origin=half))
    assert fitted_on(axes) == {half: ["fraction arrived"]}
    monkeypatch.setitem(THRESHOLDS, "radius", replace(PRIORS["radius"], origin="24 models of chess"))
    assert fitted_on(axes) == {half: ["fraction arrived"], "24 models of chess": ["radius"]}
    assert priors_of(axes) == "some of its thresholds are priors"


def test_other_thresholds_may_judge():
    easier = {**THRESHOLDS, "fraction arrived": replace(THRESHOLDS["fraction arrived"], holds=0.3, fails=0.2)}
    assert judge("reachability", {"fraction arrived": 0.4}, "").status is Status.FAILS
    assert judge("reachability", {"fraction arrived": 0.4}, "", easier).status is Status.HOLDS
    assert judge_geometry({"radius": None, "gradient growth per iteration": 2.0}, "").status is Status.UNKNOWN
    assert judge_geometry({"radius": 0.5, "gradient growth per iteration": 2.0}, "").status is Status.FAILS
