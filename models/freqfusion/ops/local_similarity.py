# SPDX-License-Identifier: Apache-2.0
"""Cosine similarity of every pixel with its dilated neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion import native
from freqfusion.ops.autograd import differentiate_through, widen_under_autocast

EPSILON = 1e-8  # of torch.nn.functional.cosine_similarity, which the official code calls


def check_arguments(features: Tensor, kernel_size: int, dilation: int) -> None:
    """Raises ``ValueError`` unless ``local_similarity`` can run on these arguments."""
    if features.dim() != 4:
        raise ValueError(f"local_similarity: features must have four dimensions (N, C, H, W), got {features.dim()}")
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise ValueError(f"local_similarity: kernel_size must be odd and at least 3, got {kernel_size}")
    if dilation < 1:
        raise ValueError(f"local_similarity: dilation must be at least 1, got {dilation}")


def compare_neighbours(features: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Defines the operator: unit vectors (fp32 for half types), shifted copies, dot products over channels."""
    h, w = features.shape[2:]
    exact = torch.promote_types(features.dtype, torch.float32)
    wide = features.to(exact)
    unit = wide / wide.norm(dim=1, keepdim=True).clamp_min(EPSILON)
    reach = kernel_size // 2 * dilation
    padded = F.pad(unit, (reach, reach, reach, reach))
    centre = kernel_size**2 // 2
    taps = [
        (unit * padded[:, :, ky * dilation : ky * dilation + h, kx * dilation : kx * dilation + w]).sum(dim=1)
        for tap in range(kernel_size**2)
        if tap != centre
        for ky, kx in [divmod(tap, kernel_size)]
    ]
    return torch.stack(taps, dim=1).to(features.dtype)


@torch.library.custom_op("freqfusion::local_similarity", mutates_args=())
def local_similarity(features: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Computes the cosine of the angle between each pixel's channel vector and each neighbour's.

    Args:
        features: ``(N, C, H, W)``, any floating dtype; all arithmetic is fp32 for half types.
        kernel_size: Side of the neighbourhood in taps; odd, at least 3. The official code uses 3.
        dilation: Pixels between taps. The official code uses 2.

    Returns:
        ``(N, kernel_size**2 - 1, H, W)`` in ``[-1, 1]``, dtype of ``features``; taps row by row without the centre.
        Neighbours outside the map give exactly 0.

    Raises:
        ValueError: If ``kernel_size`` or ``dilation`` is out of range.

    Source: ``compute_similarity`` in the official ``FreqFusion.py``. There the epsilon 1e-8 becomes 0 in fp16 and every
    padded neighbour NaN; here it is applied in fp32.
    """
    check_arguments(features, kernel_size, dilation)
    result = native.local_similarity(features, kernel_size, dilation)
    return compare_neighbours(features, kernel_size, dilation) if result is None else result


@local_similarity.register_fake
def _(features: Tensor, kernel_size: int, dilation: int) -> Tensor:
    check_arguments(features, kernel_size, dilation)
    n, _, h, w = features.shape
    return features.new_empty((n, kernel_size**2 - 1, h, w))


differentiate_through(local_similarity, compare_neighbours, tensors=1)
widen_under_autocast(local_similarity)
