# SPDX-License-Identifier: Apache-2.0
"""Slow readers of run-length codes and polygons, which follow their definitions."""

from __future__ import annotations

import numpy as np


def read_code(code: dict) -> np.ndarray:
    """COCO's compressed code as a mask, character by character."""
    counts: list[int] = []
    text, at = code["counts"], 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            character = ord(text[at]) - 48
            value |= (character & 0x1F) << shift
            more = bool(character & 0x20)
            shift += 5
            at += 1
            if not more and character & 0x10:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    height, width = code["size"]
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


def fill_even_odd(rings: list[list[int]], size: tuple[int, int]) -> np.ndarray:
    """Fills rings of pixel corners: a pixel is inside if an odd number of upright sides is to its left."""
    crossings = np.zeros(size, int)
    for ring in rings:
        points = np.array(ring).reshape(-1, 2)
        for (x, y), (next_x, next_y) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if x == next_x:
                crossings[min(y, next_y) : max(y, next_y), x:] += 1
    return crossings % 2 == 1
