# SPDX-License-Identifier: Apache-2.0
"""The operators as plain loops in float64: the only definition of "right" that tests compare to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def carafe(x: Array, m: Array, kernel_size: int, groups: int, scale: int, padding: int = 0) -> Array:
    """Sums each output pixel's window, weighted by its mask; taps outside the map are zero, or reflected (1)."""
    n, c, h, w = x.shape
    radius, per_group = kernel_size // 2, max(c // groups, 1)
    assert padding == 0 or radius < min(h, w)
    out = np.zeros((n, c, scale * h, scale * w))
    for b, y, col in itertools.product(range(n), range(scale * h), range(scale * w)):
        for ky, kx in itertools.product(range(kernel_size), repeat=2):
            sy, sx = y // scale + ky - radius, col // scale + kx - radius
            if padding == 1:
                sy, sx = h - 1 - abs(h - 1 - abs(sy)), w - 1 - abs(w - 1 - abs(sx))
            if 0 <= sy < h and 0 <= sx < w:
                taps = np.arange(groups) * kernel_size**2 + ky * kernel_size + kx
                out[b, :, y, col] += x[b, :, sy, sx] * np.repeat(m[b, taps, y, col], per_group)
    return out


def window_products(padded: Array, factors: Array, kernel_size: int, groups: int) -> Array:
    """Each pixel's factors times the windows of a larger map that begin there, summed over each group's channels."""
    n, c, h, w = factors.shape
    out = np.zeros((n, groups, kernel_size**2, h, w))
    for b, g, tap, y, x in np.ndindex(out.shape):
        own = slice(g * (c // groups), (g + 1) * (c // groups))
        ky, kx = divmod(tap, kernel_size)
        out[b, g, tap, y, x] = factors[b, own, y, x] @ padded[b, own, y + ky, x + kx]
    return out.reshape(n, groups * kernel_size**2, h, w)


def normalize_taps(logits: Array, window: Sequence[float], kernel_size: int) -> Array:
    """Softmax over each group's taps, times the window, divided by the sum."""
    n, channels, h, w = logits.shape
    taps = logits.reshape(n, channels // kernel_size**2, kernel_size**2, h, w).astype(np.float64)
    taps = np.exp(taps - taps.max(axis=2, keepdims=True))
    taps = taps / taps.sum(axis=2, keepdims=True) * np.asarray(window, np.float64).reshape(-1, 1, 1)
    return (taps / taps.sum(axis=2, keepdims=True)).reshape(logits.shape)


def adaptive_filter(
    x: Array,
    logits: Array,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int = 0,
) -> Array:
    """Low-pass (0), high-pass (1) or sharpening (2) filter predicted by ``logits``."""
    lowpass = carafe(x, normalize_taps(logits, window, kernel_size), kernel_size, groups, scale, padding)
    return (lowpass, x - lowpass, 2 * x - lowpass)[mode] if mode else lowpass


def local_similarity(x: Array, kernel_size: int, dilation: int) -> Array:
    """Cosine of each pixel's channel vector with its dilated neighbours, row-major without the centre."""
    n, _, h, w = x.shape
    radius = kernel_size // 2
    offsets = [(dy, dx) for dy, dx in itertools.product(range(-radius, radius + 1), repeat=2) if (dy, dx) != (0, 0)]
    out = np.zeros((n, len(offsets), h, w))
    for b, t, y, col in itertools.product(range(n), range(len(offsets)), range(h), range(w)):
        ny, nx = y + offsets[t][0] * dilation, col + offsets[t][1] * dilation
        if 0 <= ny < h and 0 <= nx < w:
            u, v = x[b, :, y, col], x[b, :, ny, nx]
            norms = max(np.sqrt(u @ u), 1e-8) * max(np.sqrt(v @ v), 1e-8)
            out[b, t, y, col] = u @ v / norms
    return out


def offset_resample(x: Array, offsets: Array, groups: int) -> Array:
    """Reads every pixel of ``x`` at a position moved by ``offsets``, bilinearly, clamped to the map."""
    n, c, height, width = x.shape
    per_group = max(c // groups, 1)
    out = np.zeros_like(x, dtype=np.float64)
    for b, g, row, col in itertools.product(range(n), range(groups), range(height), range(width)):
        cell = g * 4 + (row % 2) * 2 + col % 2
        off_x = float(offsets[b, cell, row // 2, col // 2])
        off_y = float(offsets[b, 4 * groups + cell, row // 2, col // 2])
        px = min(max(2 * (col // 2 + 0.5 + off_x) - 0.5, 0.0), width - 1.0)
        py = min(max(2 * (row // 2 + 0.5 + off_y) - 0.5, 0.0), height - 1.0)
        x0, y0 = int(px), int(py)
        x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
        fx, fy = px - x0, py - y0
        block = x[b, g * per_group : (g + 1) * per_group].astype(np.float64)
        top = block[:, y0, x0] * (1 - fx) + block[:, y0, x1] * fx
        bottom = block[:, y1, x0] * (1 - fx) + block[:, y1, x1] * fx
        out[b, g * per_group : (g + 1) * per_group, row, col] = top * (1 - fy) + bottom * fy
    return out


def deformable_attention(value: Array, offsets: Array, logits: Array, sizes: Sequence[int]) -> Array:
    """Each pixel of a pyramid, one level after the other, gathers bilinearly from its own places on every level."""
    n, tokens, heads, dim = value.shape
    levels = list(zip(sizes[::2], sizes[1::2], strict=True))
    places = [(y, x, h, w) for h, w in levels for y in range(h) for x in range(w)]
    starts = np.cumsum([0, *(h * w for h, w in levels)])
    weights = np.exp(logits - logits.max(axis=3, keepdims=True, initial=-np.inf))
    points = logits.shape[3] // len(levels)
    weights = (weights / weights.sum(axis=3, keepdims=True)).reshape(n, tokens, heads, len(levels), points)
    moves = offsets.reshape(*weights.shape, 2)
    out = np.zeros((n, tokens, heads, dim))
    for b, t, m, level, p in np.ndindex(weights.shape):
        row, column, own_h, own_w = places[t]
        h, w = levels[level]
        x = (column + 0.5) / own_w * w + moves[b, t, m, level, p, 0] - 0.5
        y = (row + 0.5) / own_h * h + moves[b, t, m, level, p, 1] - 0.5
        left, top = math.floor(x), math.floor(y)
        for i, j in itertools.product((top, top + 1), (left, left + 1)):
            if 0 <= i < h and 0 <= j < w:
                share = (1 - abs(y - i)) * (1 - abs(x - j))
                out[b, t, m] += weights[b, t, m, level, p] * share * value[b, starts[level] + i * w + j, m]
    return out


def resize_matrix(source: int, target: int, align_corners: bool) -> Array:
    """One axis of a bilinear resize without antialiasing, as a matrix ``(target, source)``."""
    matrix = np.zeros((target, source))
    for i in range(target):
        if align_corners:
            position = i * (source - 1) / (target - 1) if target > 1 else 0.0
        else:
            position = max((i + 0.5) * source / target - 0.5, 0.0)
        low = min(int(position), source - 1)
        matrix[i, low] += 1 - (position - low)
        matrix[i, min(low + 1, source - 1)] += position - low
    return matrix


def resized_scores(scores: Array, sizes: Sequence[int], align_corners: bool) -> Array:
    """All class maps at output size, after both bilinear steps."""
    for height, width in (sizes[:2], sizes[2:]):
        rows = resize_matrix(scores.shape[2], height, align_corners)
        columns = resize_matrix(scores.shape[3], width, align_corners)
        scores = np.einsum("yh,nchw,xw->ncyx", rows, scores.astype(np.float64), columns, optimize=True)
    return scores


def resize_argmax(scores: Array, sizes: Sequence[int], align_corners: bool) -> NDArray[np.int32]:
    """Index of the largest class after both steps; the lowest index wins a tie."""
    labels: NDArray[np.int32] = resized_scores(scores, sizes, align_corners).argmax(axis=1).astype(np.int32)
    return labels


def query_scores(masks: Array, classes: Array, sizes: Sequence[int]) -> Array:
    """All class maps of Mask2Former's queries at the picture's size; ``classes`` has "no object" last."""
    shares = np.exp(classes - classes.max(axis=2, keepdims=True))
    shares = shares / shares.sum(axis=2, keepdims=True)
    padded = resized_scores(masks, (*sizes[:2], *sizes[:2]), align_corners=False)
    kept = 1 / (1 + np.exp(-padded[:, :, : sizes[2], : sizes[3]]))
    scores = np.zeros((len(masks), classes.shape[2] - 1, *sizes[2:4]))
    for n, q, c in np.ndindex(len(masks), masks.shape[1], classes.shape[2] - 1):
        scores[n, c] += shares[n, q, c] * kept[n, q]
    return resized_scores(scores, (*sizes[4:], *sizes[4:]), align_corners=False)


def query_argmax(masks: Array, classes: Array, sizes: Sequence[int]) -> NDArray[np.int32]:
    """Index of the class with the largest score at every pixel of the picture; the lowest index wins a tie."""
    labels: NDArray[np.int32] = query_scores(masks, classes, sizes).argmax(axis=1).astype(np.int32)
    return labels


def roi_align(features: np.ndarray, rois: np.ndarray, images: np.ndarray, cells: int, scale: float) -> np.ndarray:
    """mmcv's ``roi_align``, average, aligned, ``sampling_ratio`` 0: features (N, C, H, W), rois (R, 4)."""
    _, channels, height, width = features.shape
    out = np.zeros((len(rois), channels, cells, cells))
    for r, (x1, y1, x2, y2) in enumerate(np.asarray(rois, np.float64) * scale - 0.5):
        cell_h, cell_w = (y2 - y1) / cells, (x2 - x1) / cells
        rows, columns = math.ceil(cell_h), math.ceil(cell_w)
        for i in range(cells):
            for j in range(cells):
                for a in range(rows):
                    for b in range(columns):
                        y = y1 + i * cell_h + (a + 0.5) * cell_h / rows
                        x = x1 + j * cell_w + (b + 0.5) * cell_w / columns
                        if y < -1 or y > height or x < -1 or x > width:
                            continue
                        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                        top, left = int(y), int(x)
                        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
                        plane = features[images[r]]
                        upper = plane[:, top, left] * (1 - (x - left)) + plane[:, top, right] * (x - left)
                        lower = plane[:, bottom, left] * (1 - (x - left)) + plane[:, bottom, right] * (x - left)
                        out[r, :, i, j] += upper * (1 - (y - top)) + lower * (y - top)
                out[r, :, i, j] /= max(rows * columns, 1)
    return out


def pyramid_roi_align(
    maps: Sequence[np.ndarray], boxes: np.ndarray, cells: int, finest_stride: int, finest_scale: int
) -> np.ndarray:
    """mmdetection's ``SingleRoIExtractor``: four maps (N, C, H, W), boxes (N, M, 4) -> (N * M, C, cells, cells)."""
    out = []
    for image, own in enumerate(np.asarray(boxes, np.float64)):
        for box in own:
            scale = math.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 0.0)) / finest_scale + 1e-6
            level = min(max(math.floor(math.log2(scale)), 0), 3)
            out.append(roi_align(maps[level], box[None], np.array([image]), cells, 1 / (finest_stride << level))[0])
    return np.stack(out) if out else np.zeros((0, maps[0].shape[1], cells, cells))


def nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, score_threshold: float, most: int) -> np.ndarray:
    """Greedy suppression of (M, 4) boxes; a mask of those kept."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= score_threshold or len(kept) == most:
            continue
        overlaps = []
        for j in kept:
            w = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            h = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            shared = max(w, 0) * max(h, 0)
            areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j]))
            overlaps.append(shared / (areas - shared) if areas > shared else 0.0)
        if all(overlap <= iou_threshold for overlap in overlaps):
            kept.append(int(i))
    mask = np.zeros(len(scores), bool)
    mask[kept] = True
    return mask
