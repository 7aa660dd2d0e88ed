# SPDX-License-Identifier: Apache-2.0
"""Boxes: decoding of regressed ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MAX_LOG_RATIO = abs(math.log(16 / 1000))  # bounds the growth of a side, in both directions


def decode_boxes(boxes: Tensor, deltas: Tensor, image_sizes: Tensor) -> Tensor:
    """Moves and scales boxes by regressed deltas, and clips them to their image.

    Args:
        boxes: ``(N, ..., 4)``: x1, y1, x2, y2.
        deltas: ``(N, ..., 4)``, broadcastable with ``boxes``: dx, dy in sides; dw, dh as logarithms.
        image_sizes: ``(N, 2)`` int64: height and width without padding.

    Returns:
        ``(N, ..., 4)``: x1, y1, x2, y2 with ``0 <= x <= width`` and ``0 <= y <= height``.

    Source: ``delta2bbox`` of mmdetection 2.28, without centre clamp.
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    size = boxes[..., 2:] - boxes[..., :2]
    new_centre = centre + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp() * 0.5
    corners = torch.cat((new_centre - half, new_centre + half), dim=-1)
    height, width = image_sizes.to(corners).unbind(1)
    limits = torch.stack((width, height, width, height), dim=1)
    return torch.minimum(corners.clamp(min=0), limits.reshape(-1, *[1] * (corners.dim() - 2), 4))
