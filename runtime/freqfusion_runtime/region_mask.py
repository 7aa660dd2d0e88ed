# SPDX-License-Identifier: Apache-2.0
"""Instance masks that keep only the rectangle they lie in: a hundred full masks of a photo would be 100 MB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.run_lengths import region_code

THRESHOLD = 0.5  # of a resampled probability, inclusive
# Closed at both ends: a sample on a box's border is half of the outermost probability, which just reaches the threshold.


@dataclass(frozen=True, eq=False)
class RegionMask:
    """A mask that is False outside a rectangle.

    Args:
        top: Row of the rectangle's first pixel.
        left: Column of its first pixel.
        bits: ``(h, w)``, the rectangle; may be empty.
        size: ``(H, W)`` of the whole mask.
    """

    top: int
    left: int
    bits: NDArray[np.bool_]
    size: tuple[int, int]

    @property
    def region(self) -> tuple[slice, slice]:
        """The rectangle, to index a map of the whole size."""
        height, width = self.bits.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def area(self) -> int:
        """Number of pixels inside."""
        return int(np.count_nonzero(self.bits))

    def dense(self) -> NDArray[np.bool_]:
        """Gives the whole mask, ``(H, W)``."""
        whole = np.zeros(self.size, bool)
        whole[self.region] = self.bits
        return whole

    def code(self) -> dict[str, Any]:
        """Gives COCO's compressed run-length code: ``{"size": [H, W], "counts": "..."}``."""
        return region_code(self.bits, self.top, self.left, self.size)

    def iou(self, other: RegionMask) -> float:
        """Intersection over union with a mask of the same whole size; 1 for two empty masks."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.bits.shape[0], other.top + other.bits.shape[0])
        right = min(self.left + self.bits.shape[1], other.left + other.bits.shape[1])
        common = 0
        if top < bottom and left < right:
            common = int(np.count_nonzero(self._part(top, bottom, left, right) & other._part(top, bottom, left, right)))
        union = self.area + other.area - common
        return common / union if union else 1.0

    def _part(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.bool_]:
        return self.bits[top - self.top : bottom - self.top, left - self.left : right - self.left]


def paste_masks(
    logits: NDArray[np.floating], boxes: NDArray[np.floating], size: tuple[int, int]
) -> tuple[RegionMask, ...]:
    """Stretches mask logits over their boxes and thresholds them.

    A pixel's centre is mapped linearly onto the box, the probabilities are sampled there bilinearly (half-pixel
    centres, zero outside), and 0.5 or more is inside. That makes a pixel outside the box False, so only the box's own
    pixels are computed.

    Args:
        logits: ``(N, M, M)``, before the sigmoid.
        boxes: ``(N, 4)``, x1 y1 x2 y2 in pixels of the canvas.
        size: ``(H, W)`` of the canvas.

    Returns:
        N masks; that of a box without area or outside the canvas is empty.

    Source: ``_do_paste_mask`` of mmdet, which samples the same way, into whole canvases on a GPU. Its masks of boxes
    without area differ between CPU and GPU; here they are empty.
    """
    # exp overflows to infinity for logits below -88, and 1 / infinity is the right answer.
    with np.errstate(over="ignore"):
        probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float32, copy=False)))
    limits = np.array([size[1], size[0]])
    low = np.clip(np.floor(boxes[:, :2]), 0, limits).astype(np.int64)
    high = np.clip(np.ceil(boxes[:, 2:]), 0, limits).astype(np.int64)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (high > low).all(axis=1)
    masks = []
    for index in range(len(boxes)):
        if not has_area[index]:
            masks.append(RegionMask(0, 0, np.zeros((0, 0), bool), size))
            continue
        (left, top), (right, bottom) = low[index].tolist(), high[index].tolist()
        x1, y1, x2, y2 = boxes[index].tolist()
        taps = probabilities.shape[1]
        down, across = _axis(top, bottom, y1, y2, taps), _axis(left, right, x1, x2, taps)
        masks.append(RegionMask(top, left, (down @ probabilities[index]) @ across.T >= THRESHOLD, size))
    return tuple(masks)


def _axis(first: int, end: int, low: float, high: float, taps: int) -> NDArray[np.float32]:
    """Sampling weights of the pixels ``first`` to ``end`` on ``taps`` values stretched from ``low`` to ``high``.

    Returns:
        ``(end - first, taps)``.
    """
    position = (np.arange(first, end) + 0.5 - low) / (high - low) * taps - 0.5
    weights = 1.0 - np.abs(position[:, None] - np.arange(taps))
    return np.maximum(weights, 0.0, out=weights).astype(np.float32)
