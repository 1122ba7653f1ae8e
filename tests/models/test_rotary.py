"""The rotary embedding against multiplication by complex phases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loopscope.models.rotary import rotary_table, rotate, rotate_tokens_last


@pytest.mark.parametrize("grid", [(7,), (3, 5), (2, 3, 2)])
def test_rotary_is_multiplication_by_complex_phases(grid):
    pairs = 6
    positions = torch.cartesian_prod(*[torch.arange(n) for n in grid]).view(-1, len(grid)).double()
    frequencies = 10000.0 ** (-torch.arange(pairs // len(grid)).double() / (pairs // len(grid)))
    phases = torch.exp(1j * (positions[:, :, None] * frequencies).flatten(1))
    features = torch.randn(2, math.prod(grid), 3, 2 * pairs, generator=torch.Generator().manual_seed(0)).double()
    turned = torch.complex(*features.chunk(2, -1)) * phases[:, None]
    expected = torch.cat([turned.real, turned.imag], -1)
    table = rotary_table(grid, 2 * pairs, 10000.0)
    torch.testing.assert_close(rotate(features, table), expected, rtol=1e-6, atol=1e-6)
    last = rotate_tokens_last(features.permute(0, 2, 3, 1), table)
    torch.testing.assert_close(last, expected.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)


@settings(max_examples=60)
@given(
    first=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    second=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    shift=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    seed=st.integers(0, 2**16),
)
def test_rotary_scores_depend_on_relative_positions_only(first, second, shift, seed):
    side = 16
    table = rotary_table((side, side), 8, 100.0)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def score(at: tuple[int, int], other: tuple[int, int]) -> Tensor:
        rows = torch.tensor([at[0] * side + at[1], other[0] * side + other[1]])
        turned = rotate(torch.stack([query, key]).view(1, 2, 1, 8), table[:, rows])
        return (turned[0, 0] * turned[0, 1]).sum()

    moved = [tuple(p + s for p, s in zip(position, shift, strict=True)) for position in (first, second)]
    torch.testing.assert_close(score(first, second), score(*moved), rtol=1e-5, atol=1e-5)
