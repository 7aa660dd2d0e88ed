# SPDX-License-Identifier: Apache-2.0
"""What TF32 does to a network, computed on any device.

An NVIDIA GPU since Ampere may round the factors of fp32 products to TF32: 8 bits of exponent as fp32, 10 of mantissa in
place of 23; products are summed in fp32. PyTorch does so in convolutions unless told otherwise, and in matrix products
if told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_DROPPED_BITS = 13
# Which arguments are factors; the others (bias, what is added) stay as they are.
_FACTORS = {
    "conv1d": (0, 1),
    "conv2d": (0, 1),
    "conv3d": (0, 1),
    "conv_transpose2d": (0, 1),
    "convolution": (0, 1),
    "_convolution": (0, 1),
    "linear": (0, 1),
    "matmul": (0, 1),
    "mm": (0, 1),
    "bmm": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "addbmm": (1, 2),
    "scaled_dot_product_attention": (0, 1, 2),
}


def round_to_tf32(values: Tensor) -> Tensor:
    """Rounds fp32 to the nearest number with 10 bits of mantissa, ties to even; infinities and NaN stay.

    Args:
        values: Any shape, fp32; other dtypes are given back as they are.
    """
    if values.dtype != torch.float32:
        return values
    bits = values.contiguous().view(torch.int32)
    is_odd = (bits >> _DROPPED_BITS) & 1
    half_below = (1 << (_DROPPED_BITS - 1)) - 1
    rounded = (bits + half_below + is_odd) & ~((1 << _DROPPED_BITS) - 1)
    return torch.where(values.isfinite(), rounded.view(torch.float32), values)


class Tf32Products(TorchDispatchMode):
    """Within it every convolution, linear layer and matrix product has its factors rounded to TF32.

    FreqFusion's own operators are no tensor-core products and stay in fp32.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        factors = _FACTORS.get(func._opname, ()) if func.namespace == "aten" else ()
        arguments = [round_to_tf32(value) if place in factors else value for place, value in enumerate(args)]
        return func(*arguments, **(kwargs or {}))
