"""Attention against softmax(q k) v written out in float64, forward and gradient."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paper_reference import neighbourhood

from loopscope.models.attention import ONE_STRIP, STRIP, additive, full_attention, local_mask, masked_attention

SEEN = {
    "local": neighbourhood,
    "banded": lambda token, length, size: [place for place in range(length) if abs(place - token) <= size // 2],
}
"""The positions that a token sees under each local attention, by token, length of the line and kernel size."""


def token_by_token(attention, query, key, value, weight, kernel_size):
    """Return local attention of one head, and its gradients under the cotangent ``weight``, one token at a time.

    With scores s = q k / sqrt(width), p their softmax over the positions that a token sees, and o = p v, the gradient
    of the scores is p (v w - o w).
    """
    mixed = np.zeros_like(value)
    of_query, of_key, of_value = (np.zeros_like(part) for part in (query, key, value))
    scale = query.shape[1] ** -0.5
    for token in range(len(query)):
        seen = SEEN[attention](token, len(query), kernel_size)
        exponentials = np.exp(scale * key[seen] @ query[token])
        share = exponentials / exponentials.sum()
        mixed[token] = share @ value[seen]
        of_score = share * ((value[seen] - mixed[token]) @ weight[token])
        of_query[token] = scale * of_score @ key[seen]
        of_key[seen] += scale * np.outer(of_score, query[token])
        of_value[seen] += np.outer(share, weight[token])
    return mixed, of_query, of_key, of_value


def assert_is_token_by_token(attention, tokens, kernel_size, *, examples=1, heads=1, width=2, seed=0):
    """Compare local attention with the reference, forward and gradient, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (examples, tokens, heads, width)
    query, key, value, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))
    parts = [part.requires_grad_() for part in (query, key, value)]
    mixed = masked_attention(
        query, key.permute(0, 2, 3, 1), value, additive(local_mask(attention, tokens, kernel_size))
    )
    found = (mixed, *torch.autograd.grad((mixed * weight).sum(), parts))
    for row, head in product(range(examples), range(heads)):
        alone = [part[row, :, head].detach().numpy() for part in (query, key, value, weight)]
        for ours, right in zip(found, token_by_token(attention, *alone, kernel_size), strict=True):
            torch.testing.assert_close(ours[row, :, head], torch.from_numpy(right), rtol=1e-9, atol=1e-10)


def test_neighbourhood_attention_is_the_reference_at_every_length_up_to_200():
    for tokens in range(1, 201):
        assert_is_token_by_token("local", tokens, 5)


@settings(max_examples=40)
@example(attention="local", tokens=73, reach=38, seed=0)  # longer than one strip, shorter than the kernel
@given(
    attention=st.sampled_from(sorted(SEEN)),
    tokens=st.one_of(st.integers(1, 12), st.integers(ONE_STRIP - 1, 4 * STRIP + 3)),
    reach=st.one_of(st.integers(1, 8), st.integers(STRIP // 2 - 1, STRIP + 8)),
    seed=st.integers(0, 2**16),
)
def test_local_attention_is_the_reference_for_every_kernel_size(attention, tokens, reach, seed):
    assert_is_token_by_token(attention, tokens, 2 * reach + 1, examples=2, heads=3, width=4, seed=seed)


@pytest.mark.parametrize("kernel_size", [3, 5, 11])
def test_every_token_sees_the_whole_kernel_or_the_whole_line(kernel_size):
    for tokens in range(1, 201):
        seen = local_mask("local", tokens, kernel_size).sum(-1).flatten()[:tokens]
        assert seen.eq(min(kernel_size, tokens)).all()


def test_a_line_reads_the_same_from_both_ends():
    for tokens in range(1, ONE_STRIP + 1):
        mask = local_mask("local", tokens, 5)[0]
        assert torch.equal(mask, mask.flip(0, 1))


def test_full_attention_mixes_all_values_by_softmax():
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    weights = (torch.einsum("bihc,bjhc->bhij", query, key) / 2).softmax(-1)
    mixed = full_attention(query, key.permute(0, 2, 3, 1), value)
    torch.testing.assert_close(mixed, torch.einsum("bhij,bjhc->bihc", weights, value))


def test_a_long_line_costs_in_proportion_to_its_length():
    sizes = [local_mask("local", tokens, 5).numel() for tokens in (32 * STRIP, 64 * STRIP)]
    assert sizes[1] == 2 * sizes[0] == 64 * STRIP * (STRIP + 6)


def test_what_is_not_finite_in_one_example_stays_there():
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 100, 1, 4, generator=generator) for _ in range(3))
    key = key.permute(0, 2, 3, 1)
    expected = masked_attention(query, key, value, additive(local_mask("local", 100, 5)))[1]
    for part in (query, key, value):
        part[0] = math.nan
    mixed = masked_attention(query, key, value, additive(local_mask("local", 100, 5)))
    assert torch.equal(mixed[1], expected)
    assert mixed[0].isnan().all()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_local_attention_stays_finite_for_large_scores(scale):
    query = scale * torch.ones(1, 6, 1, 4)
    value = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 1, 4)
    mixed = masked_attention(query, query.permute(0, 2, 3, 1), value, additive(local_mask("local", 6, 3)))[0, :, 0, 0]
    torch.testing.assert_close(mixed, torch.tensor([1.0, 1, 2, 3, 4, 4]))
