"""What the kind of a made-up model alone forecasts, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.prediction.analysis.kinds import against_kinds, rates_of_kinds
from experiments.prediction.signals import LONG_RUN
from experiments.prediction.tests.populations import DEGRADED, RETAINED, UNLEARNED, made, population, sample


def test_the_rate_counts_other_configurations_of_the_same_kind_that_solve_the_task():
    members = [
        made("a", RETAINED, rate=1e-3, seed=0),  # The others that count: c, d and e, of which c retains.
        made("b", RETAINED, rate=1e-3, seed=1),
        made("c", RETAINED, rate=2e-3),  # a, b, d, e.
        made("d", DEGRADED, rate=3e-3),  # a, b, c, e.
        made("e", DEGRADED, rate=4e-3),
        made("f", UNLEARNED, rate=5e-3),  # a to e.
        made("g", RETAINED, rate=6e-3, norm="pre"),  # None.
        made("h", RETAINED, rate=6e-3, recall="none"),
        made("i", DEGRADED, rate=6e-3, task="chess"),
    ]
    expected = [2 / 5, 2 / 5, 3 / 6, 4 / 6, 4 / 6, 4 / 7, 1 / 2, 1 / 2, 1 / 2]
    assert rates_of_kinds(sample(members)).tolist() == pytest.approx(expected)


def test_predictors_are_compared_with_the_rate_on_the_same_models():
    """In this population, models with outer retain their accuracy and those with pre degrade, so the rate orders all rightly."""
    models = sample(population())
    informed = np.array([member.signal(LONG_RUN) for member in models.members], dtype=float)
    scores = {"informed": informed, "the wrong way round": -informed}
    right, wrong = against_kinds(models, scores, tuple(scores))
    assert (right.name, right.areas.ours.value, right.areas.theirs.value, right.areas.lead.value) == (
        "informed",
        1,
        1,
        0,
    )
    assert (wrong.areas.ours.value, wrong.areas.theirs.value, wrong.areas.lead.value) == (0, 1, -1)
    assert wrong.areas.lead.models == 48
