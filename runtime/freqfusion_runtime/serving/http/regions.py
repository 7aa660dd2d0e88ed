# SPDX-License-Identifier: Apache-2.0
"""Areas of a label map as polygons, without a loop over pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def polygons(mask: NDArray[np.bool_]) -> list[list[int]]:
    """Traces the outlines of a mask along pixel corners.

    Args:
        mask: ``(H, W)``.

    Returns:
        Rings ``[x0, y0, x1, y1, ...]`` of corners in pixels, (0, 0) being the outer corner of the first pixel. Outer
        rings run clockwise as seen on the screen, holes the other way; filling by the even-odd rule gives the mask
        again. Pixels that touch only by a corner are apart.
    """
    starts, ends, directions = _segments(mask)
    following = _links(starts, ends, directions, mask.shape[1] + 2).tolist()
    xs, ys = starts[:, 0].tolist(), starts[:, 1].tolist()
    rings = []
    seen = bytearray(len(following))
    for first in range(len(following)):
        if seen[first]:
            continue
        ring: list[int] = []
        at = first
        while not seen[at]:
            seen[at] = 1
            ring += (xs[at], ys[at])
            at = following[at]
        rings.append(ring)
    return rings


def corner_count(mask: NDArray[np.bool_]) -> int:
    """Counts what :func:`polygons` would return, in corners."""
    outside = np.pad(mask, 1).astype(np.int8)
    around = outside[:-1, :-1] + outside[:-1, 1:] + outside[1:, :-1] + outside[1:, 1:]
    diagonal = (around == 2) & (outside[:-1, :-1] == outside[1:, 1:])
    return int(np.count_nonzero(around & 1) + 2 * np.count_nonzero(diagonal))


_RIGHT, _DOWN, _LEFT, _UP = range(4)


def _segments(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Lists straight pieces of outline with the mask on their right: starts and ends ``(S, 2)`` as x, y; directions."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = {
        _RIGHT: inside & ~padded[:-2, 1:-1],
        _LEFT: inside & ~padded[2:, 1:-1],
        _UP: (inside & ~padded[1:-1, :-2]).T,
        _DOWN: (inside & ~padded[1:-1, 2:]).T,
    }
    starts, ends, directions = [], [], []
    for direction, side in sides.items():
        line, low, high = _row_runs(side)
        line = line + (direction in (_LEFT, _DOWN))  # these run along the far side of their pixels
        forward = direction in (_RIGHT, _DOWN)
        begin, end = (low, high) if forward else (high, low)
        along_x = direction in (_RIGHT, _LEFT)
        starts.append(np.column_stack([begin, line] if along_x else [line, begin]))
        ends.append(np.column_stack([end, line] if along_x else [line, end]))
        directions.append(np.full(len(line), direction))
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(directions)


def _row_runs(side: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Runs of True along rows: row, first, one past the last."""
    change = np.diff(np.pad(side, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    line, low = np.nonzero(change == 1)
    _, high = np.nonzero(change == -1)
    return line, low, high


def _links(
    starts: NDArray[np.int64], ends: NDArray[np.int64], directions: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """For each segment, the one that goes on where it ends.

    Where two start there, the one that turns right stays with the same pixel; it is missing at inner corners, and the
    left turn is then the only one.
    """
    keys = (starts[:, 1] * width + starts[:, 0]) * 4 + directions
    order = np.argsort(keys)
    sorted_keys = keys[order]
    corner = (ends[:, 1] * width + ends[:, 0]) * 4
    right, left = corner + (directions + 1) % 4, corner + (directions + 3) % 4
    place = np.searchsorted(sorted_keys, right)
    found = np.append(sorted_keys, -1)[place] == right
    place = np.where(found, place, np.searchsorted(sorted_keys, left))
    return np.append(order, -1)[place]
