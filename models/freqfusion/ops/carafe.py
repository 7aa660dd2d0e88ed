# SPDX-License-Identifier: Apache-2.0
"""Content-aware reassembly of features, the operator under every FreqFusion filter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion import native
from freqfusion.ops.autograd import differentiate_by, widen_under_autocast
from freqfusion.ops.padding import Padding, pad
from freqfusion.ops.reassembly_gradients import reassembly_gradients


def check_shapes(
    name: str, features: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int
) -> None:
    """Raises ``ValueError`` unless ``mask`` (or logits) of this shape can weigh the windows of ``features``."""
    if features.dim() != 4:
        raise ValueError(f"{name}: features must have four dimensions (N, C, H, W), got {features.dim()}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"{name}: kernel_size must be odd and positive, got {kernel_size}")
    if scale < 1:
        raise ValueError(f"{name}: scale must be at least 1, got {scale}")
    if padding not in tuple(Padding):
        raise ValueError(f"{name}: padding must be 0 (zeros) or 1 (reflect), got {padding}")
    n, c, h, w = features.shape
    if groups < 1 or c % groups:
        raise ValueError(f"{name}: groups must divide the {c} channels of features, got {groups}")
    expected = (n, groups * kernel_size**2, scale * h, scale * w)
    if mask.dim() != 4 or any(got != want for got, want in zip(mask.shape, expected, strict=True)):
        raise ValueError(f"{name}: mask must have shape {expected} for these features, got {tuple(mask.shape)}")
    if mask.dtype != features.dtype:
        raise ValueError(f"{name}: mask must be {features.dtype} as features are, got {mask.dtype}")


def check_size(name: str, features: Tensor, kernel_size: int, padding: int) -> None:
    """Raises ``ValueError`` unless ``features`` are large enough to be reflected, where that is wanted."""
    radius, (h, w) = kernel_size // 2, features.shape[2:]
    if padding == Padding.REFLECT and radius and (h <= radius or w <= radius):
        raise ValueError(
            f"{name}: padding 1 (reflect) needs features larger than {radius} x {radius} for kernel_size "
            f"{kernel_size}, got {h} x {w}"
        )


def reassemble(features: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int = 0) -> Tensor:
    """Defines the operator: windows by ``unfold``, weighed and summed in fp32 (fp64 for fp64 features)."""
    n, c, h, w = features.shape
    taps, radius = kernel_size * kernel_size, kernel_size // 2
    exact = torch.promote_types(features.dtype, torch.float32)
    windows = F.unfold(pad(features.to(exact), radius, padding), kernel_size)  # (N, C*taps, H*W)
    windows = windows.reshape(n, groups, c // groups, taps, h, w)
    weights = mask.to(exact).reshape(n, groups, taps, h, scale, w, scale)
    if scale == 1:
        weights = weights.reshape(n, groups, 1, taps, h, w)
        result = (windows * weights).sum(dim=3)
    else:
        # A matrix product for each input pixel; with scale 1 it has one column and the broadcast product is the faster.
        result = torch.einsum("ngcthw,ngthiwj->ngchiwj", windows, weights)
    return result.reshape(n, c, scale * h, scale * w).to(features.dtype)


@torch.library.custom_op("freqfusion::carafe", mutates_args=())
def carafe(features: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int = 0) -> Tensor:
    """Sums the ``kernel_size**2`` window around every output pixel, weighted by that pixel's own mask.

    Args:
        features: ``(N, C, H, W)``, any floating dtype; sums are fp32 for half types.
        mask: ``(N, groups * kernel_size**2, scale * H, scale * W)``, dtype of ``features``; group-major, then taps
            row by row. Not normalized here; callers pass weights that sum to one.
        kernel_size: Side of the window in input pixels; odd.
        groups: Contiguous blocks of channels that share a mask; divides ``C``.
        scale: Output pixels per input pixel along each axis; all ``scale**2`` pixels of a cell see the same window.
        padding: A :class:`Padding`: what taps outside the map read. Reflected maps are larger than the window's radius,
            ``kernel_size // 2``.

    Returns:
        ``(N, C, scale * H, scale * W)``, dtype of ``features``.

    Raises:
        ValueError: If the shapes above do not fit together.

    Source: CARAFE, ICCV 2019, eq. 4; mmcv ``carafe_naive_cuda_kernel.cuh``, where pixels outside the map count as zero.
    The fallback in the official ``FreqFusion.py`` reflects them and ignores ``groups``.
    """
    check_shapes("carafe", features, mask, kernel_size, groups, scale, padding)
    check_size("carafe", features, kernel_size, padding)
    result = native.carafe(features, mask, kernel_size, groups, scale, padding)
    return reassemble(features, mask, kernel_size, groups, scale, padding) if result is None else result


@carafe.register_fake
def _(features: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int = 0) -> Tensor:
    check_shapes("carafe", features, mask, kernel_size, groups, scale, padding)
    n, c, h, w = features.shape
    return features.new_empty((n, c, scale * h, scale * w))


@torch.library.custom_op("freqfusion::carafe_gradients", mutates_args=())
def carafe_gradients(
    gradient: Tensor, features: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Gradients of ``carafe`` with respect to ``features`` and ``mask``, each of its shape and dtype."""
    exact = torch.promote_types(features.dtype, torch.float32)
    wide = (gradient.to(exact), features.to(exact), mask.to(exact))
    by_features, by_mask = reassembly_gradients(*wide, kernel_size, groups, scale, padding)
    return by_features.to(features.dtype), by_mask.to(mask.dtype)


@carafe_gradients.register_fake
def _(
    gradient: Tensor, features: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), mask.new_empty(mask.shape)


differentiate_by(carafe, carafe_gradients, tensors=2)
widen_under_autocast(carafe)
