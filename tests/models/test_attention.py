"""Attention against softmax(q k) v written out in float64, forward and gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loopscope.models.attention import ONE_STRIP, STRIP, full_attention, local_attention, window_mask


@settings(max_examples=40)
@given(
    tokens=st.one_of(st.integers(1, 12), st.integers(ONE_STRIP - 1, 4 * STRIP + 3)),
    radius=st.one_of(st.integers(0, 8), st.integers(STRIP - 1, STRIP + 8)),
    seed=st.integers(0, 2**16),
)
def test_local_attention_is_full_attention_with_a_band_mask(tokens, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(2, tokens, 3, 4, generator=generator, dtype=torch.float64)  # noqa: E731
    query, key, value, weight = (draw() for _ in range(4))
    query.requires_grad_(), key.requires_grad_(), value.requires_grad_()
    band = (torch.arange(tokens)[:, None] - torch.arange(tokens)).abs() <= radius
    scores = torch.einsum("bihc,bjhc->bhij", query, key) / 2
    full = torch.einsum("bhij,bjhc->bihc", scores.masked_fill(~band, -math.inf).softmax(-1), value)
    local = local_attention(query, key.permute(0, 2, 3, 1), value, window_mask(tokens, radius))
    torch.testing.assert_close(local, full, rtol=1e-10, atol=1e-10)
    expected = torch.autograd.grad((full * weight).sum(), (query, key, value))
    for gradient, right in zip(torch.autograd.grad((local * weight).sum(), (query, key, value)), expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-9, atol=1e-10)


def test_full_attention_mixes_all_values_by_softmax():
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    weights = (torch.einsum("bihc,bjhc->bhij", query, key) / 2).softmax(-1)
    mixed = full_attention(query, key.permute(0, 2, 3, 1), value)
    torch.testing.assert_close(mixed, torch.einsum("bhij,bjhc->bihc", weights, value))


def test_a_long_line_costs_in_proportion_to_its_length():
    sizes = [window_mask(tokens, 5).numel() for tokens in (32 * STRIP, 64 * STRIP)]
    assert sizes[1] == 2 * sizes[0] == 64 * STRIP * (STRIP + 10)


def test_what_is_not_finite_in_one_example_stays_there():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 100, 1, 4, generator=generator) for _ in range(3))
    key = key.permute(0, 2, 3, 1)
    expected = local_attention(query, key, value, window_mask(100, 2))[1]
    for part in (query, key, value):
        part[0] = math.nan
    mixed = local_attention(query, key, value, window_mask(100, 2))
    assert torch.equal(mixed[1], expected)
    assert mixed[0].isnan().all()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_local_attention_stays_finite_for_large_scores(scale):
    query = scale * torch.ones(1, 6, 1, 4)
    value = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 1, 4)
    mixed = local_attention(query, query.permute(0, 2, 3, 1), value, window_mask(6, 1))[0, :, 0, 0]
    torch.testing.assert_close(mixed, torch.tensor([0.5, 1, 2, 3, 4, 4.5]))
