"""TF32 on any machine: factors of float32 products are rounded to ten bits of mantissa, and products are added in float32.

That is what tensor cores do once ``torch.set_float32_matmul_precision("high")`` allows it. Vectors times matrices, which do not
run on tensor cores, stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

DROPPED_BITS = 23 - 10
"""Bits of the mantissa of float32 that TF32 has not."""

aten = torch.ops.aten
FACTORS: dict[Any, tuple[int, int]] = {
    aten.mm: (0, 1),
    aten.bmm: (0, 1),
    aten.addmm: (1, 2),
    aten.addbmm: (1, 2),
    aten.baddbmm: (1, 2),
    aten._addmm_activation: (1, 2),
    aten.convolution: (0, 1),
}
"""Places of the two factors among the arguments of each product."""


def round_to_tf32(tensor: Tensor) -> Tensor:
    """Return a float32 tensor rounded to the nearest numbers of TF32, ties away from zero; other tensors as they are.

    Example:
        >>> round_to_tf32(torch.tensor([1 + 2.0**-10, 1 + 2.0**-11, 1 + 2.0**-12])) - 1
        tensor([0.0010, 0.0010, 0.0000])
    """
    if tensor.dtype != torch.float32:
        return tensor
    bits = tensor.detach().contiguous().view(torch.int32)
    half, kept = 1 << (DROPPED_BITS - 1), -1 << DROPPED_BITS
    rounded = ((bits + half) & kept).view(torch.float32)
    return torch.where(tensor.isfinite(), rounded, tensor)


class _RoundedFactors(TorchDispatchMode):
    """Rounds the factors of every matrix product that runs inside, those of backward passes as well."""

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        places = FACTORS.get(function.overloadpacket)
        if places is not None:
            given = [round_to_tf32(one) if place in places else one for place, one in enumerate(arguments)]
            return function(*given, **options)
        # In inference mode, functions such as einsum arrive whole.
        if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
            with self:
                parts = function.decompose(*arguments, **options)
            if parts is not NotImplemented:
                return parts
        return function(*arguments, **options)


@contextmanager
def emulated_tf32() -> Iterator[None]:
    """Compute the products of float32 matrices inside as a GPU does in TF32.

    Attention is computed by its plain formula, whose products can be seen.

    Example:
        >>> factors = torch.full((16, 16), 1 + 2.0**-12)
        >>> with emulated_tf32():
        ...     (factors @ torch.eye(16))[0, 0].item()
        1.0
    """
    with sdpa_kernel(SDPBackend.MATH), _RoundedFactors():
        yield


def rounds_products(device: torch.device) -> bool:
    """Return whether products of float32 matrices are computed in less than float32 on a device, as things are set.

    That is tried with one product, so it also holds for emulated TF32 and for settings of other names.

    Args:
        device: the device.

    Example:
        >>> rounds_products(torch.device("cpu"))
        False
        >>> with emulated_tf32():
        ...     rounds_products(torch.device("cpu"))
        True
    """
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        # Lost in TF32 and in bfloat16, exact in float32. The size is one for which libraries use their fast kernels.
        factor = torch.full((_SIZE, _SIZE), 1 + 2.0**-12, device=device)
        product = factor @ torch.eye(_SIZE, device=device)
        return not bool((product == factor).all())


_SIZE = 64
