"""The precision of matrix products in training. bf16 is faster only on hardware with bf16 instructions."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "float32"]


def multiplies_bf16() -> bool:
    """Return whether the CUDA GPU, or without one the processor, has instructions for bf16 products.

    Without them every number is converted to float32 first. This is slower than float32 on a processor with AVX-512, and
    many times slower on others.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def precision_here(precision: Precision) -> Literal["bf16", "float32"]:
    """Resolve the precision for this machine: auto is bf16 if the machine has instructions for it, else float32."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16() else "float32"
