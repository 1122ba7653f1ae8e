"""The initialization of the GRU cell, by its statistics. What the rules compute is tested in test_transformer.py."""

import math

import pytest
import torch
from scipy import special, stats

from loopscope.models.residual import Gru

WIDTH = 64


@pytest.fixture
def rule():
    torch.manual_seed(0)
    return Gru(WIDTH)


def test_input_weights_are_xavier_uniform(rule):
    bound = math.sqrt(6 / (WIDTH + 3 * WIDTH))
    weights = rule.cell.weight_ih.detach().flatten()
    assert weights.abs().max() <= bound
    assert stats.kstest(weights.numpy(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01


def test_hidden_weights_are_orthogonal(rule):
    weights = rule.cell.weight_hh.detach().double()
    torch.testing.assert_close(weights.T @ weights, torch.eye(WIDTH).double(), rtol=0, atol=1e-5)


def test_biases_are_zero_but_those_of_the_update_gate(rule):
    for bias in (rule.cell.bias_ih, rule.cell.bias_hh):
        reset, update, new = bias.chunk(3)
        assert update.eq(1).all()
        assert torch.cat([reset, new]).eq(0).all()


def test_a_new_cell_keeps_88_hundredths_of_its_state(rule):
    # Without an update, a small state z becomes (keep + (1 - keep) U / 2) z, where U is random and has no bias along z.
    state = 1e-3 * torch.randn(200, 1, WIDTH)
    after = rule(state, torch.zeros_like)
    assert ((after * state).sum() / state.square().sum()).item() == pytest.approx(0.88, abs=0.005)


def test_a_new_cell_keeps_the_expected_share_of_states_of_unit_size(rule):
    state, update = torch.randn(2, 500, 1, WIDTH)
    state = state / state.square().mean(-1, keepdim=True).sqrt()
    after = rule(state, lambda tokens: update)
    # The update gate varies: 1/2 is the variance of its input part (Xavier), 1/3 that of its hidden part (orthogonal).
    gate = stats.norm(2, math.sqrt(1 / 2 + 1 / 3)).expect(special.expit)
    assert ((after * state).sum() / state.square().sum()).item() == pytest.approx(gate, abs=0.01)
