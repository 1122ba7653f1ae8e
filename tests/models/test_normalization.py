"""RMSNorm in its two layouts."""

import torch

from loopscope.models.normalization import RMSNorm


def test_a_norm_is_the_same_where_tokens_are_last():
    norm = RMSNorm(6).double()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    features = torch.randn(2, 5, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(norm.tokens_last(features.permute(0, 2, 3, 1)), norm(features).permute(0, 2, 3, 1))
    assert norm.float().tokens_last(features.bfloat16().mT).dtype is torch.float32
