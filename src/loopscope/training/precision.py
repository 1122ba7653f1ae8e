"""The precision of matrix products in training. bf16 is faster only on hardware with fast bf16 instructions."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "float32"]
_PROCESSOR = Path("/proc/cpuinfo")


def _is_intel() -> bool:
    """Return whether the processor is made by Intel, as far as the system reports it."""
    return "GenuineIntel" in (_PROCESSOR.read_text() if _PROCESSOR.exists() else platform.processor())


def multiplies_bf16() -> bool:
    """Return whether the CUDA GPU, or without one the processor, multiplies faster in bf16 than in float32.

    Without instructions for bf16, every number is converted to float32 first. This is slower than float32 on a processor with
    AVX-512, and many times slower on others. AMD's AVX-512 instructions for bf16 are faster than those for float32, and
    Intel's are not. Intel's tiles (AMX) are faster than both, but some virtual machines hide them.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and not _is_intel()


def precision_here(precision: Precision) -> Literal["bf16", "float32"]:
    """Resolve the precision for this machine: auto is bf16 if the machine multiplies faster in it, else float32."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16() else "float32"
