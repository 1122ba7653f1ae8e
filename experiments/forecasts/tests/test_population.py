"""The loops of the experiment, their outcomes, and the ledger."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from experiments.forecasts import population
from experiments.forecasts.families import FAMILIES
from experiments.forecasts.outcomes import HORIZON, LAST, accuracy, curve, outcome, running_on, unchecked
from experiments.forecasts.population import Row, Training, fill, measure, read_ledger, trainings
from experiments.forecasts.tasks import TASKS, Problems
from experiments.forecasts.training import damped, trained
from loopscope import FunctionLoop, LoopscopeError
from loopscope.loop import iterate

NAMED = {family.name: family for family in FAMILIES}
FLAT = [1.0] * HORIZON


def after(fall: int, low: float) -> list[float]:
    return [1.0] * (fall - 1) + [low] * (HORIZON - fall + 1)


@pytest.mark.parametrize(
    ("accuracies", "keeps", "retained", "onset"),
    [
        (FLAT, True, 1, None),
        (after(200, 0.5), False, 0.5, 200),
        (after(200, 0.95), True, 0.95, None),
        ([0.2, *after(2, 0.1)[1:]], False, 0.5, 2),
        ([*FLAT[:-1], 0.0], False, 0, HORIZON),
        ([*FLAT[:-LAST], 0.0, *FLAT[1 - LAST :]], False, 0, None),
        ([*FLAT[: -LAST - 1], 0.0, *FLAT[-LAST:]], True, 1, None),
    ],
)
def test_an_outcome_is_that_of_the_last_iterations(accuracies, keeps, retained, onset):
    found = outcome(accuracies)
    assert (found.keeps, found.retained, found.onset) == (keeps, pytest.approx(retained), onset)


def test_running_on_sees_what_is_lost_by_then():
    accuracies = after(70, 0.5)
    assert (running_on(accuracies, 60), running_on(accuracies, 96)) == (True, False)


def drifting(until: float) -> tuple[FunctionLoop, Problems]:
    loop = FunctionLoop(
        lambda x: x, torch.zeros_like, lambda z, e: z + 1, lambda z: torch.cat([until - z, z - until], dim=2)
    )
    return loop, Problems(torch.zeros(4, 1, 1), torch.zeros(4, 1, dtype=torch.long))


def test_the_curve_of_a_loop_is_its_accuracy_after_each_iteration():
    loop, problems = drifting(10.5)
    assert curve(loop, problems, 20) == [1.0] * 10 + [0.0] * 10
    assert accuracy(replace(loop, read=lambda z: z.expand(4, 1, 2) * torch.nan), problems.inputs, problems) == 0


def test_leaps_without_a_check_follow_a_drift():
    assert unchecked(*drifting(1e6), 8)
    assert not unchecked(*drifting(300.5), 8)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_a_loop_that_learns(family):
    short = replace(family, updates=3)
    task = TASKS[family.task]
    loop = trained(short, 0, family.rates[0], "sampled")
    again = trained(short, 0, family.rates[0], "sampled")
    assert all(torch.equal(one, other) for one, other in zip(loop.parameters(), again.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in loop.parameters())
    problems = task.draw(5, torch.Generator().manual_seed(0))
    recalled = loop.encode(problems.inputs)
    state = iterate(loop, loop.start(recalled), recalled, 3)
    assert loop.read(state).shape == (*problems.answers.shape, task.classes)
    different = [
        (one - other).abs().max()
        for one, other in zip(loop.parameters(), family.untrained(0).parameters(), strict=True)
    ]
    assert max(different) > 0


def test_a_damped_loop_goes_to_the_same_fixed_point_more_slowly():
    family = NAMED["tanh cell"]
    loop = family.untrained(0).requires_grad_(False)
    problems = TASKS[family.task].draw(5, torch.Generator().manual_seed(0))
    recalled = loop.encode(problems.inputs)
    slow = damped(loop, 0.1, 4)
    assert torch.equal(slow.start(recalled), iterate(loop, loop.start(recalled), recalled, 4))
    point = iterate(loop, loop.start(recalled), recalled, 300)
    left = [float((iterate(slow, slow.start(recalled), recalled, steps) - point).norm()) for steps in (0, 20, 300)]
    assert left[0] > left[1] > 100 * left[2]
    pair = NAMED["LSTM cell"].untrained(0).requires_grad_(False)
    start = damped(pair, 0.3, 2).start(pair.encode(torch.randn(2, 1, 8)))
    assert isinstance(start, tuple)


@pytest.fixture
def quick(monkeypatch):
    """Measure a single training of one family, on few problems."""
    family = replace(NAMED["tanh cell"], updates=3)
    monkeypatch.setattr(population, "FAMILIES", (family,))
    monkeypatch.setattr(population, "SEEDS", (0,))
    monkeypatch.setattr(population, "SCHEDULES", ("fixed",))
    monkeypatch.setattr(population, "PROBLEMS", 8)
    return family


def test_a_ledger_is_filled_once_and_read_back(quick, tmp_path):
    path = tmp_path / "results" / "ledger.jsonl"
    rows = list(fill(path))
    assert [(row.training.rate, row.damping) for row in rows] == [
        (0.003, None),
        (0.003, 0.3),
        (0.01, None),
        (0.01, 0.3),
    ]
    assert read_ledger(path) == rows
    assert list(fill(path)) == []
    row = rows[0]
    assert row.steps <= 96
    assert row.accuracy["480"] == pytest.approx(row.outcome.retained * row.outcome.best, abs=1 / 8)
    assert measure(quick, Training("tanh cell", 0, 0.003, "fixed"))[0].outcome == row.outcome


def test_a_line_that_is_no_row_is_refused(quick, tmp_path):
    path = tmp_path / "ledger.jsonl"
    row = asdict(next(fill(path)))
    path.write_text(json.dumps({**row, "steps": "many"}) + "\n")
    with pytest.raises(LoopscopeError, match=r"ledger.jsonl, line 1: steps is 'many', expected a whole number"):
        read_ledger(path)


def test_the_published_ledger_holds_every_loop_once():
    rows = read_ledger()
    expected = {
        (one, damping) for family in FAMILIES for one in trainings(family) for damping in (None, damping_of(one))
    }
    assert {row.key for row in rows} == expected
    assert len(rows) == len(expected)
    assert all(row.role == NAMED[row.training.family].role for row in rows)
    assert all(isinstance(row, Row) and row.steps <= HORIZON // 5 for row in rows)


def damping_of(training: Training) -> float:
    return population.DAMPING[training.seed]


def test_a_training_that_diverged_is_a_loop_that_did_not_learn():
    family = replace(NAMED["residual perceptron"], updates=2, rates=(1e38,))
    rows = measure(family, next(trainings(family)))
    assert [(row.solves, row.counts, row.outlook) for row in rows] == [(0, False, "cannot tell")] * 2
    assert "NaN" in rows[1].reason
