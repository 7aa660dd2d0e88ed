# SPDX-License-Identifier: Apache-2.0
"""mmcv's CARAFE as one more reference and rival, where mmcv and a CUDA device are there. mmcv is never required."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import freqfusion.predicted_filters
import torch
from freqfusion.ops.adaptive_filter import normalize_taps
from freqfusion.ops.padding import Padding
from torch import Tensor


def is_available() -> bool:
    """Whether mmcv's operator can run here; its only implementation is CUDA."""
    try:
        from mmcv.ops import carafe  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


def adaptive_filter(
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int = Padding.ZEROS,
) -> Tensor:
    """``freqfusion.ops.adaptive_filter`` on CUDA tensors, its sum taken by mmcv.

    mmcv ignores strides: a channels-last tensor would silently give garbage, hence ``contiguous``.

    Raises:
        ValueError: If ``padding`` is not zeros, the only one that mmcv knows.
    """
    from mmcv.ops import carafe

    if padding != Padding.ZEROS:
        raise ValueError(f"mmcv's operator pads with zeros (0) alone, got padding {padding}")

    taps = normalize_taps(logits, window, kernel_size)
    lowpass: Tensor = carafe(features.contiguous(), taps.contiguous(), kernel_size, groups, scale)
    return mode * features - lowpass if mode else lowpass


@contextmanager
def mmcv_operators() -> Iterator[None]:
    """FreqFusion modules filter by mmcv while the block runs."""
    module: Any = freqfusion.predicted_filters
    original = module.adaptive_filter
    module.adaptive_filter = adaptive_filter
    try:
        yield
    finally:
        module.adaptive_filter = original
