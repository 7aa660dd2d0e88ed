# SPDX-License-Identifier: Apache-2.0
"""Resampling of a map at positions moved by predicted offsets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion import native
from freqfusion.ops.autograd import differentiate_through, widen_under_autocast


def check_shapes(features: Tensor, offsets: Tensor, groups: int) -> None:
    """Raises ``ValueError`` unless ``offset_resample`` can run on these arguments."""
    if features.dim() != 4 or offsets.dim() != 4:
        raise ValueError(
            f"offset_resample: features and offsets must have four dimensions, got {features.dim()} and {offsets.dim()}"
        )
    n, c, height, width = features.shape
    if groups < 1 or c % groups:
        raise ValueError(f"offset_resample: groups must divide the {c} channels of features, got {groups}")
    expected = (n, c, 2 * offsets.shape[2], 2 * offsets.shape[3])
    if offsets.shape[0] != n or offsets.shape[1] != 8 * groups or (height, width) != expected[2:]:
        raise ValueError(
            f"offset_resample: offsets must have shape ({n}, {8 * groups}, {height}/2, {width}/2) for features "
            f"{tuple(features.shape)}, got {tuple(offsets.shape)}"
        )
    if offsets.dtype != features.dtype:
        raise ValueError(f"offset_resample: offsets must be {features.dtype} as features are, got {offsets.dtype}")


def sample(features: Tensor, offsets: Tensor, groups: int) -> Tensor:
    """Defines the operator with ``grid_sample``; coordinates are fp32 at least."""
    n, c, height, width = features.shape
    h, w = height // 2, width // 2
    exact = torch.promote_types(features.dtype, torch.float32)
    cells = offsets.to(exact).reshape(n, 2, groups, 2, 2, h, w).permute(0, 2, 5, 3, 6, 4, 1)
    offset = cells.reshape(n * groups, height, width, 2)  # (N*G, 2h, 2w, xy) in offset-map pixels
    rows = torch.arange(height, device=features.device).to(exact).div(2, rounding_mode="floor") + 0.5
    columns = torch.arange(width, device=features.device).to(exact).div(2, rounding_mode="floor") + 0.5
    x = (columns + offset[..., 0]) * (2 / w) - 1
    y = (rows[:, None] + offset[..., 1]) * (2 / h) - 1
    blocks = features.to(exact).reshape(n * groups, c // groups, height, width)
    sampled = F.grid_sample(
        blocks, torch.stack((x, y), dim=-1), mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.reshape(n, c, height, width).to(features.dtype)


@torch.library.custom_op("freqfusion::offset_resample", mutates_args=())
def offset_resample(features: Tensor, offsets: Tensor, groups: int) -> Tensor:
    """Moves every pixel of a map by a predicted offset and reads the map there, bilinearly.

    Args:
        features: ``(N, C, 2h, 2w)``, any floating dtype; all arithmetic is fp32 for half types.
        offsets: ``(N, 8 * groups, h, w)``, dtype of ``features``, in pixels of the ``h x w`` map. Channel
            ``axis * 4G + g * 4 + i * 2 + j``: axis 0 horizontal, 1 vertical; ``g`` the channel group; ``(i, j)`` row
            and column of the output pixel in its 2 x 2 cell. Offsets of -0.25 and +0.25 for ``i, j`` = 0 and 1
            (the module's ``init_pos``) read every pixel where it is.
        groups: Contiguous blocks of channels that share offsets; divides ``C``.

    Returns:
        ``(N, C, 2h, 2w)``, dtype of ``features``. Positions outside the map are clamped to its border.

    Raises:
        ValueError: If the shapes above do not fit together.

    Source: ``LocalSimGuidedSampler.sample`` in the official ``FreqFusion.py``, after DySample (ICCV 2023).
    """
    check_shapes(features, offsets, groups)
    result = native.offset_resample(features, offsets, groups)
    return sample(features, offsets, groups) if result is None else result


@offset_resample.register_fake
def _(features: Tensor, offsets: Tensor, groups: int) -> Tensor:
    check_shapes(features, offsets, groups)
    return features.new_empty(features.shape)


differentiate_through(offset_resample, sample, tensors=2)
widen_under_autocast(offset_resample)
