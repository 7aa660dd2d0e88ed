# SPDX-License-Identifier: Apache-2.0
"""FreqFusion's predicted low-pass and high-pass filters: from logits to the filtered map in one operator."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from freqfusion import native
from freqfusion.ops.autograd import differentiate_by, widen_under_autocast
from freqfusion.ops.carafe import check_shapes, check_size, reassemble
from freqfusion.ops.reassembly_gradients import reassembly_gradients


class FilterMode(IntEnum):
    """What becomes of the low-pass map ``f(X)``. The values are those of the ONNX attribute ``mode``."""

    LOWPASS = 0  # f(X)
    HIGHPASS = 1  # X - f(X)
    SHARPEN = 2  # 2 X - f(X)


def normalize_taps(logits: Tensor, window: Sequence[float], kernel_size: int) -> Tensor:
    """Turns filter logits into weights that sum to one over each window.

    Args:
        logits: ``(N, G * K**2, H, W)``; group-major, then taps row by row.
        window: ``K**2`` factors, none negative; all one for no window.
        kernel_size: K.

    Returns:
        ``(N, G * K**2, H, W)``, dtype of ``logits``; computed in fp32 for half types.

    Source: ``FreqFusion.kernel_normalizer`` in the official ``FreqFusion.py``, which only works for ``G = 1``.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    taps: Tensor = logits.to(exact).unflatten(1, (-1, kernel_size**2)).softmax(dim=2)  # (N, G, K*K, H, W)
    if any(factor != 1.0 for factor in window):
        taps = taps * torch.tensor(window, dtype=exact, device=logits.device).reshape(-1, 1, 1)
        taps = taps / taps.sum(dim=2, keepdim=True)
    return taps.flatten(1, 2).to(logits.dtype)


def filter_features(
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int = 0,
) -> Tensor:
    """Defines the operator: normalised taps, reassembly, residual, all in fp32 for half types."""
    exact = torch.promote_types(features.dtype, torch.float32)
    wide = features.to(exact)
    taps = normalize_taps(logits.to(exact), window, kernel_size)
    lowpass = reassemble(wide, taps, kernel_size, groups, scale, padding)
    result = lowpass if mode == FilterMode.LOWPASS else float(mode) * wide - lowpass
    return result.to(features.dtype)


def check_arguments(
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int,
) -> None:
    """Raises ``ValueError`` unless ``adaptive_filter`` can run on these arguments."""
    check_shapes("adaptive_filter", features, logits, kernel_size, groups, scale, padding)
    if len(window) != kernel_size**2:
        raise ValueError(f"adaptive_filter: window must have {kernel_size**2} factors, got {len(window)}")
    if mode not in tuple(FilterMode):
        raise ValueError(f"adaptive_filter: mode must be 0 (lowpass), 1 (highpass) or 2 (sharpen), got {mode}")
    if mode != FilterMode.LOWPASS and scale != 1:
        raise ValueError(f"adaptive_filter: mode {FilterMode(mode).name.lower()} needs scale 1, got {scale}")


@torch.library.custom_op("freqfusion::adaptive_filter", mutates_args=())
def adaptive_filter(
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int = 0,
) -> Tensor:
    """Filters a map with a kernel predicted for each output pixel.

    Per output pixel and group, the logits go through softmax over the ``kernel_size**2`` taps, times ``window``,
    divided by their sum; the taps weigh the input window as in ``carafe``.

    Args:
        features: ``(N, C, H, W)``, any floating dtype; all arithmetic is fp32 for half types.
        logits: ``(N, groups * kernel_size**2, scale * H, scale * W)``, dtype of ``features``.
        window: ``kernel_size**2`` factors, none negative: the checkpoint's Hamming buffer, or ones for none.
        kernel_size: Side of the window in input pixels; odd.
        groups: Contiguous blocks of channels that share a kernel; divides ``C``.
        scale: Output pixels per input pixel along each axis; 1 unless ``mode`` is ``LOWPASS``.
        mode: A :class:`FilterMode`: ``f(X)``, ``X - f(X)`` or ``2 X - f(X)``.
        padding: As in ``carafe``.

    Returns:
        ``(N, C, scale * H, scale * W)``, dtype of ``features``.

    Raises:
        ValueError: If the arguments do not fit together.

    Source: FreqFusion, TPAMI 2024, eqs. 6-12; ``FreqFusion._forward`` in the official ``FreqFusion.py``, where the same
    is ``kernel_normalizer`` followed by mmcv's ``carafe``.
    """
    check_arguments(features, logits, window, kernel_size, groups, scale, mode, padding)
    check_size("adaptive_filter", features, kernel_size, padding)
    result = native.adaptive_filter(features, logits, window, kernel_size, groups, scale, mode, padding)
    if result is None:
        return filter_features(features, logits, window, kernel_size, groups, scale, mode, padding)
    return result


@adaptive_filter.register_fake
def _(
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int = 0,
) -> Tensor:
    check_arguments(features, logits, window, kernel_size, groups, scale, mode, padding)
    n, c, h, w = features.shape
    return features.new_empty((n, c, scale * h, scale * w))


@torch.library.custom_op("freqfusion::adaptive_filter_gradients", mutates_args=())
def adaptive_filter_gradients(
    gradient: Tensor,
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``adaptive_filter`` with respect to ``features`` and ``logits``, each of its shape and dtype."""
    exact = torch.promote_types(features.dtype, torch.float32)
    taps = normalize_taps(logits.to(exact), window, kernel_size)
    filtered = gradient.to(exact) if mode == FilterMode.LOWPASS else -gradient.to(exact)
    arguments = (filtered, features.to(exact), taps, kernel_size, groups, scale, padding)
    by_features, by_taps = reassembly_gradients(*arguments)
    if mode != FilterMode.LOWPASS:
        by_features.add_(gradient, alpha=mode)
    # Softmax, window and renormalisation together are softmax(logits + log window), and taps its result.
    shares = taps.unflatten(1, (groups, -1))
    rise = by_taps.unflatten(1, (groups, -1))
    by_logits = shares * (rise - (shares * rise).sum(dim=2, keepdim=True))
    return by_features.to(features.dtype), by_logits.flatten(1, 2).to(logits.dtype)


@adaptive_filter_gradients.register_fake
def _(
    gradient: Tensor,
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int,
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), logits.new_empty(logits.shape)


differentiate_by(adaptive_filter, adaptive_filter_gradients, tensors=2)
widen_under_autocast(adaptive_filter)
