# SPDX-License-Identifier: Apache-2.0
"""Where in a map a token is, as sines and cosines of many wavelengths."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TEMPERATURE = 10000.0


def sine_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Encodes the positions of a map, which depends on its size only.

    Args:
        height, width: Of the map; may be symbols of a trace.
        channels: A multiple of 4: one half for y, then one for x.
        like: Gives device and dtype; the encoding itself is computed in fp32 at least.

    Returns:
        ``(height * width, channels)``: sine and cosine in turn.

    Source: ``PositionEmbeddingSine(normalize=True)`` of the official code, where a position is the count of pixels up
    to and with it, not the pixel's centre.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    half = channels // 2
    exponents = torch.arange(0, half, 2, device=like.device, dtype=exact) / half
    wavelengths = _TEMPERATURE**exponents

    def axis(extent: int) -> Tensor:
        steps = torch.arange(1, extent + 1, device=like.device).to(exact)
        angles = steps / (steps[-1:] + 1e-6) * (2 * math.pi)
        waves = angles[:, None] / wavelengths
        return torch.stack((waves.sin(), waves.cos()), dim=2).flatten(1)

    y = axis(height)[:, None].expand(height, width, half)
    x = axis(width)[None].expand(height, width, half)
    return torch.cat((y, x), dim=2).reshape(height * width, channels).to(like.dtype)
