"""The precision of training's matrix products: bf16 pays only where the machine multiplies it by itself."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "float32"]


def multiplies_bf16() -> bool:
    """Return whether the GPU that CUDA finds, or without any the processor, has instructions for products of bf16.

    Without them bf16 is turned into float32 number by number: slower than float32 on a processor with AVX-512, many
    times slower on others.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def precision_here(precision: Precision) -> Literal["bf16", "float32"]:
    """Return the precision that is meant on this machine: auto is bf16 where the machine multiplies it, else float32."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16() else "float32"
