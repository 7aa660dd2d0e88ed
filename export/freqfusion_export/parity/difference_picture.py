# SPDX-License-Identifier: Apache-2.0
"""Shows where two label maps differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MARK = np.array([255, 32, 64], np.uint8)


def draw_differences(photo: NDArray[np.uint8], labels: NDArray[Any], expected: NDArray[Any]) -> Image.Image:
    """Returns the photo in pale grey with every pixel marked red whose labels differ.

    Single pixels would be invisible; each mark is widened to a square that grows with the picture.
    """
    grey = photo.mean(axis=2, keepdims=True) * 0.5 + 110
    picture = np.repeat(grey, 3, axis=2).astype(np.uint8)
    differs = labels != expected
    radius = max(1, min(photo.shape[:2]) // 250)
    padded = np.pad(differs, radius)
    h, w = differs.shape
    wide = np.zeros_like(differs)
    for dy in range(2 * radius + 1):
        for dx in range(2 * radius + 1):
            wide |= padded[dy : dy + h, dx : dx + w]
    picture[wide] = MARK
    return Image.fromarray(picture)
