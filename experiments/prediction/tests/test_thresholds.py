"""Thresholds fitted on made-up populations whose right thresholds are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.prediction.analysis.outcomes import Sample, results_of
from experiments.prediction.analysis.statistics import folds, numbered
from experiments.prediction.analysis.thresholds import (
    FITTABLE,
    FITTED_ACCEPTED,
    FITTED_ALL,
    HeldOut,
    balanced_accuracy,
    best_gap,
    fit,
    judged,
    numbers_of_axes,
    population_in_words,
    study_thresholds,
)
from experiments.prediction.population import Member, ThinCurve
from loopscope.stability.verdict import PRIORS, THRESHOLDS, Verdict

MODE = "all iterations"
GOOD = {
    "fraction arrived": 1.0,
    "fraction moved": 1.0,
    "radius": 0.5,
    "relative Lipschitz constant": 1.0,
    "gradient growth per iteration": 0.9,
}
MOVED = {"moved": 16, "stayed": 0, "elsewhere": 0, "shared": 0, "unknown": 0}


def row(accuracy: float = 1.0, swap: dict[str, int] | None = None, **numbers: float | None) -> dict:
    """Return the numbers of an examination in which all axes hold, except for the given numbers."""
    named = {name.replace("_", " "): value for name, value in numbers.items()}
    swap = {**MOVED, "moved": 0, **swap} if swap else MOVED
    known = sum(swap.values()) - swap["unknown"]
    moved = swap["moved"] / known if 2 * known >= sum(swap.values()) else None
    return {"numbers": {**GOOD, "fraction moved": moved, **named}, "recall swap": swap, "accuracy": [0.1, accuracy]}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (row(), "stable and accurate"),
        (row(0.2), "stable"),
        (row(swap={"stayed": 10, "shared": 6}), "input-independent"),
        (row(swap={"stayed": 10, "shared": 6}, fraction_shared=0.4), "path-dependent"),
        (row(swap={"elsewhere": 15, "unknown": 1}), "path-dependent"),
        (row(swap={"moved": 6, "stayed": 4, "elsewhere": 4}), "path-dependent"),
        (row(swap={"moved": 12, "elsewhere": 4}), "undecided"),
        (row(swap={"elsewhere": 7, "unknown": 9}), "undecided"),
        (row(radius=1.1), "fragile"),
        (row(radius=None, gradient_growth_per_iteration=2.0), "undecided"),
        (row(fraction_arrived=0.2), "unstable"),
        (row(fraction_arrived=0.2, fraction_of_answers_that_stand=0.95), "never settles but keeps its answer"),
        (row(0.8, fraction_arrived=0.2, fraction_of_answers_that_stand=0.95), "unstable"),
        (row(fraction_arrived=None), "undecided"),
        ({}, "undecided"),
    ],
)
def test_a_row_is_judged_by_the_rule_of_an_examination(found, expected):
    assert judged(found).value == expected


def test_accuracy_at_the_end_is_used_if_it_was_kept():
    assert numbers_of_axes(row(0.4))["easy accuracy"] == 0.4
    assert numbers_of_axes({**row(0.4), "right at the end": 0.95})["easy accuracy"] == 0.95
    assert judged({**row(0.4), "right at the end": 0.95}) is Verdict.STABLE_AND_ACCURATE
    assert set(numbers_of_axes({})) == set(THRESHOLDS)


@pytest.mark.parametrize(
    ("values", "holds", "expected"),
    [
        ([0.0, 0.0, 0.2, 0.9, 1.0], [0, 0, 0, 1, 1], (0.2, 0.9)),
        # One model that retains its accuracy lies low: the cut that misses it alone is better than the one that includes all.
        ([0.1, 0.2, 0.3, 0.4, 0.8, 0.9], [1, 0, 0, 0, 1, 1], (0.4, 0.8)),
        # Two cuts are equally good: between 0.1 and 0.2, and, wider, between 0.3 and 0.9.
        ([0.1, 0.2, 0.3, 0.9], [0, 1, 0, 1], (0.3, 0.9)),
        ([0.5, 0.5], [0, 1], None),
        ([0.1, 0.2], [1, 1], None),
    ],
)
def test_the_best_gap(values, holds, expected):
    assert best_gap(np.array(values), np.array(holds, dtype=bool)) == expected


def test_a_fitted_threshold_holds_and_fails_at_the_gap_and_names_its_models():
    high, low = [0.8, 0.7, 0.6, 0.75, 0.65, np.nan], [0.2, 0.1, 0.15, 0.05]
    prior = PRIORS["fraction arrived"]
    assert fit(prior, np.array(high + low), np.array([True] * 6 + [False] * 4), "x") is None  # four degrade: too few
    more = np.array([*high, *low, 0.3]), np.array([True] * 6 + [False] * 5)
    found = fit(prior, *more, "7 models")
    assert (found.holds, found.fails, found.origin, found.larger_is) == (0.6, 0.3, "7 models", "better")
    turned = fit(PRIORS["radius"], -more[0], more[1], "7 models")
    assert (turned.holds, turned.fails, turned.larger_is) == (-0.6, -0.3, "worse")


def test_balanced_accuracy_weighs_both_kinds_equally_and_counts_the_undecided_half():
    holds = np.array([True, True, True, False])
    assert balanced_accuracy(np.array([1.0, 1.0, 0.0, 0.0]), holds) == pytest.approx((2 / 3 + 1) / 2)
    assert balanced_accuracy(np.array([0.5] * 4), holds) == 0.5
    assert np.isnan(balanced_accuracy(np.ones(4), np.ones(4, dtype=bool)))


def member(configuration: int, seed: int, retains: bool, examined: dict, task: str = "prefix-sums") -> Member:
    easy = [0.5, 1.0, 1.0 if retains else 0.1]
    curve = ThinCurve(100, [1, 2, 3], easy, 1.0, 2, easy[-1], 0.0)
    settings = {
        "task": task,
        "model": {"recall": "internal", "norm": "outer", "width": 64},
        "training": {"learning_rate": 1e-3 * (1 + configuration), "seed": seed, "max_iterations": 2},
    }
    return Member(
        "s", f"{configuration}-{seed}", "finished", settings, {}, None, {"easy": curve}, examined, examined, {}
    )


def sample(members: list[Member]) -> Sample:
    results, configurations = results_of(members), numbered([one.configuration for one in members])
    retains = np.array([one.retains for one in results]).astype(int)
    return Sample(members, results, configurations, [folds(retains, configurations, seed) for seed in range(3)])


def population(numbers, configurations: int = 40) -> Sample:
    """Return two models of each configuration. Two configurations retain their accuracy, the next two do not, and so on.

    Args:
        numbers: returns the numbers of an examination, given a generator and whether the model retains its accuracy.
        configurations: number of configurations.
    """
    generator = np.random.default_rng(0)
    return sample(
        [
            member(place, seed, place % 4 < 2, numbers(generator, place % 4 < 2))
            for place in range(configurations)
            for seed in range(2)
        ]
    )


def study(data: Sample):
    return study_thresholds(data, {MODE: [one.examination for one in data.members]}, MODE)


def named(found, measure):
    (one,) = [one for one in found.numbers if one.measure == measure]
    return one


def test_a_threshold_that_the_prior_misses_is_found_on_other_configurations_and_accepted():
    """Models retain their accuracy from 30% arrivals on, where the prior asks for 90%."""

    def arrived(generator, retains):
        return row(fraction_arrived=generator.uniform(0.3, 0.45) if retains else generator.uniform(0.0, 0.25))

    found = study(population(arrived))
    one = named(found, "fraction arrived")
    assert one.prior.value == 0.5
    assert one.held_out.value > 0.9
    assert one.gain.low > 0.3
    assert one.why_not is None
    assert 0.3 <= one.fitted.holds < 0.33
    assert 0.22 < one.fitted.fails <= 0.25
    assert one.fitted.origin == "half of 80 models of prefix sums, width 64"
    assert one.other_half[0] == 0.5
    assert one.other_half[1] > 0.9
    scores = {score.thresholds: score for score in found.verdicts}
    assert scores[FITTED_ACCEPTED].balanced.value > 0.9 > 0.5 == scores["priors"].balanced.value
    assert scores["priors"].counts == {"unstable": {"extrapolates": 40, "degrades": 40}}
    accepted = scores[FITTED_ACCEPTED].counts
    assert accepted["stable and accurate"]["extrapolates"] > 35
    assert sum(count for outcomes in accepted.values() for count in outcomes.values()) == pytest.approx(80)
    assert [score.balanced.models for score in found.other_half] == [40, 40]
    assert found.other_half[1].right == 1


def test_a_threshold_that_changes_nothing_is_not_accepted():
    """Both thresholds agree on all models, wherever the gap between them is cut."""
    found = study(population(lambda generator, retains: row(fraction_arrived=float(retains))))
    one = named(found, "fraction arrived")
    assert one.prior.value == one.held_out.value == 1
    assert one.why_not == "the same as the prior"


def test_noise_does_not_set_a_threshold():
    found = study(population(lambda generator, retains: row(radius=generator.uniform(0.2, 0.9))))
    one = named(found, "radius")
    assert one.held_out.low < 0.5
    assert one.why_not == "does not tell models of other configurations apart"
    assert {score.thresholds for score in found.verdicts} == {"priors", FITTED_ALL}
    assert [score.thresholds for score in found.other_half] == ["priors"]


def test_a_number_that_the_verdict_does_not_need_does_not_set_a_threshold():
    """All models that degrade are unstable. The radius would call some of the others fragile."""

    def numbers(generator, retains):
        return row(fraction_arrived=float(retains), radius=generator.uniform(0.3, 0.7 if retains else 0.95))

    found = study(population(numbers))
    one = named(found, "radius")
    assert one.held_out.value > one.prior.value
    assert one.held_out.low > 0.5
    assert one.why_not == "worse than the prior in the verdict"


def test_no_configuration_influences_its_own_thresholds():
    data = population(lambda generator, retains: row(fraction_arrived=generator.random(), radius=generator.random()))
    held_out = HeldOut(data, [one.examination for one in data.members])
    for parts, fits in zip(data.divisions, held_out.fits, strict=True):
        assert sorted(np.concatenate(parts)) == list(range(80))
        for tested, fitted in fits:
            assert set(fitted) >= {"fraction arrived", "radius"}
            others = np.setdiff1d(np.arange(80), tested)
            assert not set(data.configurations[tested]) & set(data.configurations[others])
            for measure in ("fraction arrived", "radius"):
                seen = held_out.values[measure][others]
                assert {fitted[measure].holds, fitted[measure].fails} <= set(seen)


def test_models_that_were_not_examined_and_few_models_give_no_value():
    data = population(lambda generator, retains: {} if retains else row(), configurations=4)
    found = study(data)
    assert all(one.held_out.value is None and not one.accepted for one in found.numbers)
    assert named(found, "radius").why_not.startswith("too few")
    assert found.verdicts[0].counts == {"stable and accurate": {"degrades": 4}}
    empty = study(sample([replace(member(0, 0, True, {}), prediction_mode={})]))
    assert empty.verdicts[0].decided is None
    assert empty.verdicts[0].right is None


def test_a_population_in_words():
    models = [member(place, 0, True, {}, task) for place, task in enumerate(("prefix-sums", "sudoku", "sudoku"))]
    assert population_in_words(models) == "3 models of prefix sums and sudoku, width 64"
    assert set(FITTABLE) < set(PRIORS)
