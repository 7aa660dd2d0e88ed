# SPDX-License-Identifier: Apache-2.0
"""The bilinear resizes of 8-bit pictures that networks were trained with, bit for bit: OpenCV's and Pillow's.

The official pipelines resize with ``cv2.resize(..., INTER_LINEAR)`` on uint8. It works in fixed point: weights have 11
bits, rows are combined after dropping 4 and then 16 bits, so a float resize followed by rounding differs in about every
tenth value. Halving both sides is done there by another routine, the mean of four pixels; the result is the same.

Source: ``resize.cpp`` of OpenCV 4 and 5 (``HResizeLinear``, ``VResizeLinear``), rewritten.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ONE = 2048  # INTER_RESIZE_COEF_SCALE
# Rows of intermediate values worked on at a time: 4 x 32 rows x 2048 x 3 values stay within a core's cache.
_BLOCK_ROWS = 32


def resize_like_opencv(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes a picture exactly as ``cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)``.

    Args:
        picture: ``(H, W, C)``, uint8.
        height: Of the result, at least 1.
        width: Of the result, at least 1.

    Returns:
        ``(height, width, C)``, uint8; ``picture`` itself where it already has that size.
    """
    source_height, source_width, channels = picture.shape
    if (source_height, source_width) == (height, width):
        return picture
    left, right, x_weights = _taps(source_width, width)
    top, bottom, y_weights = _taps(source_height, height)
    # At the left and right border OpenCV drops the weight of the missing pixel; at the top and bottom it repeats the
    # row and keeps both weights, which truncates twice.
    outside = (left < 0) | (left >= source_width - 1)
    x_weights[:, outside] = np.array([[_ONE], [0]])
    left, right = np.clip(left, 0, source_width - 1), np.clip(right, 0, source_width - 1)
    top, bottom = np.clip(top, 0, source_height - 1), np.clip(bottom, 0, source_height - 1)
    # Products reach 255 * 2048, and dropping 4 bits leaves 15, which is what the second multiplication expects.
    x0 = np.repeat(x_weights[0].astype(np.int32), channels)
    x1 = np.repeat(x_weights[1].astype(np.int32), channels)
    result = np.empty((height, width * channels), np.uint8)
    for start in range(0, height, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, height))
        needed, where = np.unique(np.concatenate([top[rows], bottom[rows]]), return_inverse=True)
        lines = picture[needed]
        across = np.take(lines, left, axis=1).reshape(len(needed), -1) * x0
        across += np.take(lines, right, axis=1).reshape(len(needed), -1) * x1
        across >>= 4
        upper, lower = np.split(across[where], 2)
        upper *= y_weights[0, rows, None]
        upper >>= 16
        lower *= y_weights[1, rows, None]
        lower >>= 16
        upper += lower
        upper += 2
        upper >>= 2
        result[rows] = upper  # at most 255: the weights sum to one
    return result.reshape(height, width, channels)


def resize_like_pillow(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes a picture as ``Image.resize((width, height), Image.Resampling.BILINEAR)`` of Pillow before 13.

    Every release rounds to 8 bits after each direction. Those before 13 begin with the width; 13 begins with the height
    where that drops more rows, which shows by one level in a fifth of the values. So the directions are asked for one
    by one.

    Args, returns: as :func:`resize_like_opencv`, for three channels.
    """
    if picture.shape[:2] == (height, width):
        return picture
    across = Image.fromarray(picture).resize((width, picture.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(across.resize((width, height), Image.Resampling.BILINEAR))


def _taps(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Lists both source positions of every target position and their weights ``(2, target)``."""
    scale = 1.0 / (target / source)  # OpenCV inverts twice, which is not source / target in the last bit
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position)
    fraction = position - first
    weights = np.rint(np.stack([np.float32(1) - fraction, fraction]) * np.float32(_ONE)).astype(np.int32)
    left = first.astype(np.int64)
    return left, left + 1, weights
