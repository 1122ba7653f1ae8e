"""The population: training, ledgers, and forecasts of saved models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.language_models import population, training
from experiments.language_models.population import (
    Row,
    forecast_all,
    load,
    read_forecasts,
    read_rows,
    train_all,
    trainings,
)
from experiments.language_models.training import Training, trained
from loopscope import LoopscopeError

ONE = Training("depth", "block", "every", "sampled", 0.003, 5)


def test_there_is_a_model_of_every_setting():
    every = list(trainings())
    assert [len(list(one.trainings())) for one in population.POPULATIONS.values()] == [48, 32]
    assert len(every) == len(set(every)) == len({one.name for one in every}) == 80
    assert {one.loops for one in every} == {4, 6}


def test_training_is_the_same_every_time_and_changes_the_model():
    (first, loss), (again, _) = trained(ONE, updates=3), trained(ONE, updates=3)
    assert loss > 0
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
    other, _ = trained(replace(ONE, schedule="fixed"), updates=3)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(one, another) for one, another in pairs)


def test_every_update_has_its_number_of_loops():
    counts = training._counts("sampled", torch.Generator().manual_seed(0))
    assert {next(counts) for _ in range(100)} == {2, 3, 4, 5, 6}
    fixed = training._counts("fixed", torch.Generator())
    assert [next(fixed) for _ in range(3)] == [4, 4, 4]


@pytest.fixture
def quick(monkeypatch):
    """Train two models with a few updates; both count."""
    monkeypatch.setattr(population, "trainings", lambda: iter([ONE, replace(ONE, schedule="fixed")]))
    monkeypatch.setattr(population, "TEXTS", 8)
    monkeypatch.setattr(population, "LEARNED", 0.0)
    monkeypatch.setitem(training.UPDATES, "depth", 2)


def test_models_are_trained_once_and_forecast_from_their_files(quick, tmp_path):
    ledger, said, folder = tmp_path / "models.jsonl", tmp_path / "forecasts.jsonl", tmp_path / "models"
    rows = list(train_all(ledger, folder))
    assert read_rows(ledger) == rows
    assert [len(row.accuracy) for row in rows] == [64, 64]
    assert list(train_all(ledger, folder)) == []
    made = list(forecast_all(ledger, said, folder))
    assert read_forecasts(said) == made
    assert [(one.training, one.horizon) for one in made] == [(row.training, n) for row in rows for n in (16, 32, 64)]
    list(forecast_all(ledger, said, folder))
    assert len(read_forecasts(said)) == 6
    place = folder / f"{ONE.name}.safetensors"
    before = place.read_bytes()
    place.unlink()
    with pytest.raises(LoopscopeError, match=r"sampled-0.003-5.safetensors is absent: train the models with"):
        load(ONE, folder)
    assert len(list(train_all(ledger, folder))) == 1
    assert place.read_bytes() == before
    assert len(read_rows(ledger)) == 2


def test_a_line_that_is_not_a_row_is_refused(tmp_path):
    path = tmp_path / "models.jsonl"
    path.write_text('{"loss": "low"}\n')
    with pytest.raises(LoopscopeError, match=r"models.jsonl, line 1.training is missing"):
        read_rows(path)


def test_the_published_ledgers_hold_every_model_once_and_its_forecasts():
    rows, made = read_rows(), read_forecasts()
    assert [row.training for row in rows] == list(trainings())
    expected = [(row.training, horizon) for row in rows if row.counts for horizon in (16, 32, 64)]
    assert [(one.training, one.horizon) for one in made] == expected
    assert all(isinstance(row, Row) and len(row.accuracy) == 64 for row in rows)
    assert all(one.steps <= one.horizon + 2 for one in made)
