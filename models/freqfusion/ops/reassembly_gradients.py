# SPDX-License-Identifier: Apache-2.0
"""Gradients of a reassembly, tap by tap: nothing is as large as the K*K unfolded windows that define it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion import native
from freqfusion.ops.padding import Padding, pad


def reassembly_gradients(
    gradient: Tensor, features: Tensor, mask: Tensor, kernel_size: int, groups: int, scale: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Differentiates ``reassemble``: what ``gradient`` of its result is with respect to features and mask.

    With respect to the features a reassembly is one again, of the gradient's ``scale**2`` places in a cell, by masks
    that are moved and turned round. Native kernels do that, too, and what is with respect to the mask.

    Args:
        gradient: ``(N, C, scale * H, scale * W)``, fp32 or fp64.
        features: ``(N, C, H, W)``, of that dtype, as the next.
        mask: ``(N, groups * kernel_size**2, scale * H, scale * W)``.
        kernel_size: As in ``carafe``, as the next.
        groups: As in ``carafe``.
        scale: As in ``carafe``.
        padding: As in ``carafe``.

    Returns:
        Gradients of the shapes of ``features`` and ``mask``.
    """
    radius = kernel_size // 2
    mask_gradient = torch.empty_like(mask, memory_format=torch.contiguous_format)
    padded = pad(features, radius, padding)
    reflected = padding == Padding.REFLECT and radius > 0
    edge = radius if reflected else 0
    total = torch.zeros_like(padded if reflected else features, memory_format=torch.contiguous_format)
    for i, j in ((i, j) for i in range(scale) for j in range(scale)):
        own = gradient[:, :, i::scale, j::scale].contiguous()  # (N, C, H, W)
        weights = mask[:, :, i::scale, j::scale]
        total += _transposed(F.pad(own, (edge,) * 4), F.pad(weights, (edge,) * 4), kernel_size, groups)
        mask_gradient[:, :, i::scale, j::scale] = window_products(padded, own, kernel_size, groups)
    if reflected:
        folded: Tensor = torch.ops.aten.reflection_pad2d_backward(total, features, [radius] * 4)
        return folded, mask_gradient
    return total, mask_gradient


def _transposed(gradient: Tensor, mask: Tensor, kernel_size: int, groups: int) -> Tensor:
    """What each pixel gave to its neighbours: ``gradient`` of one size with ``features``, reassembled backwards."""
    n, _, h, w = gradient.shape
    taps, radius = kernel_size**2, kernel_size // 2
    moved = F.pad(mask, (radius,) * 4).unflatten(1, (groups, taps))
    turned = mask.new_empty(n, groups, taps, h, w)
    for tap, rows, columns in _windows(kernel_size, h, w):
        turned[:, :, tap] = moved[:, :, taps - 1 - tap, rows, columns]
    turned = turned.flatten(1, 2)
    result = native.carafe(gradient, turned, kernel_size, groups, 1)
    if result is not None:
        return result
    padded = F.pad(gradient, (radius,) * 4)
    total = torch.zeros_like(gradient).unflatten(1, (groups, -1))
    for tap, rows, columns in _windows(kernel_size, h, w):
        window = padded[:, :, rows, columns].unflatten(1, (groups, -1))
        total.addcmul_(window, turned.unflatten(1, (groups, taps))[:, :, tap, None])
    summed: Tensor = total.flatten(1, 2)
    return summed


def window_products(padded: Tensor, factors: Tensor, kernel_size: int, groups: int) -> Tensor:
    """Products of ``factors`` ``(N, C, H, W)`` with the windows of a padded map, summed over each group's channels.

    Returns:
        ``(N, groups * kernel_size**2, H, W)``.
    """
    result = native.window_products(padded, factors, kernel_size, groups)
    if result is not None:
        return result
    n, _, h, w = factors.shape
    result = factors.new_empty(n, groups, kernel_size**2, h, w)
    own, around = factors.unflatten(1, (groups, -1)), padded.unflatten(1, (groups, -1))
    for tap, rows, columns in _windows(kernel_size, h, w):
        result[:, :, tap] = (own * around[:, :, :, rows, columns]).sum(dim=2)
    return result.flatten(1, 2)


def _windows(kernel_size: int, h: int, w: int) -> Iterator[tuple[int, slice, slice]]:
    """Every tap, and the rows and columns that it reads of a padded map."""
    for tap in range(kernel_size**2):
        y, x = divmod(tap, kernel_size)
        yield tap, slice(y, y + h), slice(x, x + w)
