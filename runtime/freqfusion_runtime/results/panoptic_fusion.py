# SPDX-License-Identifier: Apache-2.0
"""Instances laid over a map of stuff: the panoptic map of Panoptic FPN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.results.region_mask import RegionMask

INSTANCE_OFFSET = 1000
MAX_OVERLAP = 0.5  # a mask of which earlier ones cover more is dropped
MIN_STUFF_AREA = 4096  # pixels of the picture, whatever its size


@dataclass(frozen=True)
class Segment:
    """One connected or scattered area of a panoptic map that belongs together.

    Args:
        id: Its value in the map.
        label: Its class.
        is_thing: Whether it is an instance; stuff has one segment a class.
        area: Its pixels.
        score: Of an instance, None for stuff.
        instance: An instance's place among the detections, None for stuff.
    """

    id: int
    label: int
    is_thing: bool
    area: int
    score: float | None = None
    instance: int | None = None


def fuse(
    stuff: NDArray[Any],
    masks: Sequence[RegionMask],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    things: int,
    num_classes: int,
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    """Lays instances over stuff.

    The best score goes first. A mask that is empty, or of which more than :data:`MAX_OVERLAP` is covered already, is
    dropped; of another, the free pixels become the next instance. Then stuff with less than :data:`MIN_STUFF_AREA`
    pixels left becomes void.

    Args:
        stuff: ``(H, W)``, channel of the semantic head, 0 to S; the last stands for "some thing".
        masks: N of size ``(H, W)``.
        scores: ``(N,)``.
        labels: ``(N,)``, 0 to things - 1.
        things: Number of thing classes; stuff class c is class things + c.
        num_classes: things + S; it is also the value of void.

    Returns:
        ``(H, W)``, class + 1000 * instance number, stuff being instance 0; and the segments, instances first.

    Source: ``HeuristicFusionHead`` of mmdet.
    """
    things_map = np.zeros(stuff.shape, np.int32)
    taken = np.zeros(stuff.shape, bool)
    segments: list[Segment] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        mask = masks[index]
        area = mask.area
        if area == 0:
            continue
        under = taken[mask.region]
        free = mask.bits & ~under
        free_area = int(np.count_nonzero(free))
        if (area - free_area) / (area + 1e-5) > MAX_OVERLAP:
            continue
        label = int(labels[index])
        identity = label + INSTANCE_OFFSET * (len(segments) + 1)
        things_map[mask.region][free] = identity
        under |= mask.bits
        segments.append(Segment(identity, label, True, free_area, float(scores[index]), index))
    areas = np.bincount(stuff[~taken], minlength=num_classes - things + 1)
    values = np.arange(things, num_classes + 1, dtype=np.int32)
    is_small = areas < MIN_STUFF_AREA
    values[is_small] = num_classes
    for channel in np.flatnonzero(~is_small[:-1]).tolist():
        segments.append(Segment(things + channel, things + channel, False, int(areas[channel])))
    return np.where(taken, things_map, values[stuff]), tuple(segments)
