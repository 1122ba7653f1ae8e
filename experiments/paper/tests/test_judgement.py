"""The criterion, judged by made-up runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.paper.judgement import hard, judgement, kept
from experiments.paper.tests.test_paper import made_up


def run(recall, norm, seed, *, easy=1.0, best=1.0, hard=(0.5, 0.5), verdict="stable"):
    accuracy = {"easy": {"500": easy}, "harder": {"500": hard[0]}, "hardest": {"500": hard[1]}}
    return replace(made_up(recall, norm, seed, 0.0), accuracy=accuracy, best={"easy": best}, verdict=verdict)


def agrees(runs, statement):
    (row,) = [row for row in judgement("made-up", runs).rows if row[0].startswith(statement)]
    return row[1:]


def test_hard_accuracy_leaves_the_trained_split_out():
    assert hard(run("internal", "outer", 0, hard=(0.25, 0.75))) == 0.5
    assert kept(run("internal", "outer", 0, easy=0.6, best=0.8)) == pytest.approx(0.75)
    assert kept(run("internal", "outer", 0, easy=0.0, best=0.0)) == 0


@pytest.mark.parametrize(
    ("external", "said"),
    [((0.40, 0.35), "yes"), ((0.40, 0.45), "cannot tell"), ((0.55, 0.56), "no"), ((0.55, 0.40), "cannot tell")],
)
def test_a_difference_counts_only_in_every_seed(external, said):
    runs = [run("internal", "outer", seed) for seed in (0, 1)]
    runs += [run("external", "outer", seed, hard=(value, value)) for seed, value in enumerate(external)]
    assert agrees(runs, "internal recall solves at least 10 points")[1] == said


def test_five_points_are_enough_against_no_recall_and_pre():
    runs = [
        run("internal", "outer", 0),
        run("none", "outer", 0, hard=(0.44, 0.44)),
        run("internal", "pre", 0, hard=(0.52, 0.52)),
    ]
    assert agrees(runs, "internal recall solves more than no recall, outer") == ["+6.0 points", "yes"]
    assert agrees(runs, "internal recall solves more with outer") == ["-2.0 points", "cannot tell"]
    assert not [row for row in judgement("made-up", runs).rows if "external" in row[0]]
    runs.append(run("external", "pre", 0, hard=(0.58, 0.58)))
    assert agrees(runs, "external recall solves more than internal recall, pre") == ["+6.0 points", "yes"]


def test_every_verdict_that_says_something_must_come_true():
    runs = [
        run("internal", "outer", 0, easy=0.95),
        run("internal", "outer", 1, easy=0.5),
        run("external", "outer", 0, easy=0.1, verdict="unstable"),
        run("none", "outer", 0, verdict="undecided"),
    ]
    assert agrees(runs, "internal recall with outer keeps") == ["95%, 50% kept", "no"]
    assert agrees(runs, "stable runs") == ["2 of 3 runs with such a verdict", "no"]
    assert agrees(runs[:1], "stable runs") == ["1 of 1 runs with such a verdict", "yes"]


@pytest.mark.parametrize(
    ("verdict", "arrived", "fraction", "judged"),
    [
        ("unstable", 0.0, None, "unstable"),
        ("unstable", 0.55, None, None),
        ("never settles but keeps its answer", 0.48, None, None),
        ("never settles but keeps its answer", 0.48, 0.5, "never settles but keeps its answer"),
        ("unstable", 0.34, 0.4, "unstable"),
        ("path-dependent", 0.92, None, "path-dependent"),
        ("undecided", 0.6, None, "undecided"),
        (None, None, None, None),
    ],
)
def test_an_older_verdict_counts_where_the_thresholds_in_use_would_give_it_too(verdict, arrived, fraction, judged):
    row = replace(run("internal", "outer", 0, verdict=verdict), arrived=arrived, fraction_arrived=fraction)
    assert row.judged == judged
