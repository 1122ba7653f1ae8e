"""The spectral radius of each token against the eigenvalues of the dense Jacobian."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import loopscope as ls
from loopscope.errors import LoopscopeError
from loopscope.jacobian import step_jacobian

WIDTH = 4


class Causal(nn.Module):
    """A step of causal attention and a perceptron; with two states if asked."""

    def __init__(self, seed: int, causal: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.keys, self.values, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.causal = causal

    def encode(self, inputs):
        return inputs

    def start(self, recalled):
        return torch.zeros_like(recalled)

    def step(self, state, recalled):
        keys = self.keys(state)
        mixed = nn.functional.scaled_dot_product_attention(state, keys, self.values(state), is_causal=self.causal)
        return torch.tanh(1.5 * self.out(mixed + state) + recalled)

    def read(self, state):
        return state


def dense(loop, state, recalled):
    """Return the whole Jacobian of one example, from products with the unit vectors."""
    jacobian = step_jacobian(loop, state, recalled)
    return torch.stack([jacobian.jvp(unit[None])[0] for unit in torch.eye(jacobian.size, dtype=state.dtype)], dim=1)


@given(st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_the_radii_are_those_of_the_diagonal_blocks_and_their_largest_that_of_the_whole(seed, tokens):
    loop = Causal(seed).double()
    generator = torch.Generator().manual_seed(seed)
    state, recalled = torch.randn(2, 1, tokens, WIDTH, generator=generator, dtype=torch.float64)
    whole = dense(loop, state, recalled)
    found = ls.token_spectral_radius(loop, state, recalled, tolerance=1e-4)
    for token in range(tokens):
        part = slice(WIDTH * token, WIDTH * (token + 1))
        expected = torch.linalg.eigvals(whole[part, part]).abs().max()
        assert abs(found.radius[0, token] - expected) <= found.error[0, token] + 1e-4 * expected
    # Block-triangular: the union of the blocks' spectra is that of the whole.
    assert found.radius.max() == pytest.approx(torch.linalg.eigvals(whole).abs().max().item(), rel=1e-3)


def test_two_states_per_token_are_one_block():
    matrix = torch.tensor([[0.0, -0.8], [0.8, 0.0]])
    loop = ls.FunctionLoop(
        encode=lambda x: x,
        start=lambda e: {"h": torch.zeros_like(e), "l": torch.zeros_like(e)},
        step=lambda z, e: {
            "h": matrix[0, 1] * z["l"] * e + z["h"].cumsum(1) - z["h"],
            "l": matrix[1, 0] * z["h"] * e,
        },
        read=lambda z: z["h"],
    )
    inputs = torch.tensor([[[1.0], [0.5]]])
    found = ls.token_spectral_radius(loop, {"h": torch.ones(1, 2, 1), "l": torch.ones(1, 2, 1)}, inputs)
    assert found.radius.tolist() == [[pytest.approx(0.8), pytest.approx(0.4)]]
    assert found.eigenvalue.imag.tolist() == [[pytest.approx(0.8), pytest.approx(0.4)]]
    assert found.converged.all()


def test_padding_has_no_radius():
    loop = ls.FunctionLoop(
        lambda x: x, torch.zeros_like, lambda z, e: z * e, lambda z: z, padding=lambda e: e[..., 0] > 0
    )
    found = ls.token_spectral_radius(loop, torch.ones(1, 2, 1), torch.tensor([[[0.5], [0.0]]]))
    assert found.radius[0, 0] == pytest.approx(0.5)
    assert math.isnan(found.radius[0, 1])
    assert found.converged.tolist() == [[True, False]]


def test_a_loop_that_is_not_causal_is_refused():
    loop = Causal(0, causal=False)
    state = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    with pytest.raises(LoopscopeError, match="so the loop is not causal"):
        ls.token_spectral_radius(loop, state, state)


def test_states_of_other_shapes_are_refused():
    loop = ls.FunctionLoop(lambda x: x, lambda e: e[:, 0] * 0, lambda z, e: z / 2, lambda z: z[:, None])
    with pytest.raises(LoopscopeError, match=r"shapes \[\(1,\)\], expected \[batch, tokens, ...\]"):
        ls.token_spectral_radius(loop, torch.zeros(1), torch.ones(1, 2))


def test_the_precision_can_be_raised():
    loop = Causal(3)
    state = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    low = ls.token_spectral_radius(loop, state, state)
    high = ls.token_spectral_radius(loop, state, state, dtype=torch.float64)
    assert torch.allclose(low.radius, high.radius, rtol=2e-2)
