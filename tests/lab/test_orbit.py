"""Orbits that are recorded: every state can be had again, and what is kept is bounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lab_loops import affine, exploding, inputs, rotating

from loopscope.errors import LoopscopeError
from loopscope.lab import orbit as orbits
from loopscope.lab.orbit import MOST_READ, Orbit
from loopscope.lab.views.view import tokens_answer
from loopscope.loop import FunctionLoop
from loopscope.trees import leaves


def orbit_of(loop, given, began=0):
    recalled = loop.encode(given)
    return Orbit(loop, recalled, loop.start(recalled), tokens_answer, began)


def test_the_residual_is_the_relative_change_of_the_state():
    orbit = orbit_of(affine(), inputs()[:1])
    orbit.run_to(12)
    states = [orbit.state(iteration).numpy() for iteration in range(13)]
    for iteration in range(1, 13):
        before, after = states[iteration - 1], states[iteration]
        larger = max(np.linalg.norm(before), np.linalg.norm(after))
        assert orbit.residual(iteration) == pytest.approx(np.linalg.norm(after - before) / larger, rel=1e-5)
    assert orbit.residual(0) is None
    assert [at for at, _ in orbit.residuals()] == list(range(1, 13))


def test_states_that_are_not_kept_are_computed_again_bit_for_bit(monkeypatch):
    monkeypatch.setattr(orbits, "MOST_STATES", 10)
    monkeypatch.setattr(orbits, "FIRST_STATES", 4)
    loop, given = rotating()
    orbit = orbit_of(loop, given[:1], began=3)
    wanted = {3: orbit.last}
    for iteration in range(4, 104):
        orbit.advance()
        wanted[iteration] = orbit.last
    assert len(orbit._kept) <= 10
    assert all(torch.equal(orbit.state(iteration), state) for iteration, state in wanted.items())


@pytest.mark.parametrize("width", [4, 5000])
def test_the_states_of_a_long_orbit_take_bounded_memory(width, monkeypatch):
    monkeypatch.setattr(orbits, "MOST_BYTES", 2**20)
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: 0.9 * z + e, lambda z: z[..., :3])
    orbit = orbit_of(loop, torch.ones(1, 2, width))
    orbit.run_to(700)
    kept = [leaf for state in orbit._kept.values() for leaf in leaves(state)]
    assert len(kept) <= orbits.MOST_STATES
    assert sum(leaf.numel() * leaf.element_size() for leaf in kept) <= 2**20
    assert 0 in orbit._kept


def test_the_first_states_are_kept_and_drawn_densely():
    orbit = orbit_of(affine(), inputs()[:1])
    orbit.run_to(900)
    drawn = orbit.kept(40)
    assert len(drawn) <= 40
    assert drawn[0] == 0
    assert drawn[-1] == 900
    assert len([one for one in drawn if one <= 32]) >= 8
    assert drawn == sorted(set(drawn))


def test_an_orbit_knows_when_its_answer_last_changed():
    loop = FunctionLoop(
        encode=lambda x: x,
        start=torch.zeros_like,
        step=lambda z, e: z + 1,
        read=lambda z: torch.stack([z, torch.full_like(z, 4.5)], -1),
    )
    orbit = orbit_of(loop, torch.zeros(1, 2))
    orbit.run_to(9)
    # The first output is the larger one from 5 on.
    assert [orbit.last_change(iteration) for iteration in (0, 4, 5, 6, 9)] == [0, 0, 5, 5, 5]


def test_an_orbit_ends_where_its_state_is_not_finite():
    loop, given = exploding()
    orbit = orbit_of(loop, given[:1])
    orbit.run_to(100)
    assert orbit.broken
    assert orbit.end == 5  # 1e9 five times is above what float32 holds
    with pytest.raises(LoopscopeError, match="no longer finite at iteration 5"):
        orbit.advance()


def test_an_orbit_is_not_continued_for_ever(monkeypatch):
    monkeypatch.setattr(orbits, "LONGEST", 5)
    orbit = orbit_of(affine(), inputs()[:1])
    with pytest.raises(LoopscopeError, match="the orbit has 5 iterations, the most"):
        orbit.run_to(6)


def test_an_iteration_is_read_once_however_often_it_is_looked_at():
    reads = []

    def read(z):
        reads.append(1)
        return z[:, None]

    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, read)
    orbit = Orbit(loop, torch.ones(1, 2), torch.zeros(1, 2), lambda logits: logits.argmax(-1))
    orbit.run_to(5)
    assert len(reads) == 6
    for _ in range(3):
        torch.testing.assert_close(orbit.logits(5), torch.full((1, 2), 2 - 2.0**-4))
        torch.testing.assert_close(orbit.logits(4), torch.full((1, 2), 2 - 2.0**-3))
    assert len(reads) == 6
    torch.testing.assert_close(orbit.logits(1), torch.ones(1, 2))  # one that is no longer remembered
    assert len(reads) == 7


def test_what_is_remembered_of_a_long_orbit_stays_small():
    loop = FunctionLoop(lambda x: x, torch.zeros_like, lambda z, e: z / 2 + e, lambda z: z[:, None])
    orbit = Orbit(loop, torch.ones(1, 2), torch.zeros(1, 2), lambda logits: logits.argmax(-1))
    orbit.run_to(100)
    for iteration in range(100):
        orbit.logits(iteration)
    assert len(orbit._read) == MOST_READ
