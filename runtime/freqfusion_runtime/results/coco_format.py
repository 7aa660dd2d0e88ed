# SPDX-License-Identifier: Apache-2.0
"""Results in the formats of COCO's benchmarks: detections with run-length codes, panoptic PNG and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.model_files.classes import coco
from freqfusion_runtime.results.panoptic_fusion import Segment

# Numbers by COCO's own rules; files of other makers have texts, and timestamps and hashes beyond 2 ** 53.
Identity: TypeAlias = int | float | str


def category_ids(classes: Sequence[str]) -> tuple[int, ...]:
    """Gives each class the id it has in COCO's files or, where one of them is none of COCO's, 1, 2, 3 and so on."""
    known = dict(zip(coco.CLASSES, coco.CATEGORY_IDS, strict=True))
    if all(name in known for name in classes):
        return tuple(known[name] for name in classes)
    return tuple(range(1, len(classes) + 1))


def instance_entries(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    image_id: Identity,
    categories: Sequence[Identity],
) -> list[dict[str, Any]]:
    """Gives objects as entries of a COCO results file, without their masks: bbox is x, y, width, height.

    Args:
        boxes: ``(N, 4)``, x1 y1 x2 y2 in pixels.
        scores: ``(N,)``.
        labels: ``(N,)``, place in ``categories``.
        image_id: What the annotation file calls the picture.
        categories: Id of each class.
    """
    corners = boxes.astype(np.float64)
    sides = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    return [
        {"image_id": image_id, "category_id": categories[label], "bbox": box, "score": score}
        for label, box, score in zip(labels.tolist(), sides.tolist(), scores.tolist(), strict=True)
    ]


def panoptic_image(ids: NDArray[np.int32], void: int) -> Image.Image:
    """Draws ``(H, W)`` ids as COCO's PNG: id = R + 256 G + 65536 B, ``void`` becoming 0."""
    levels = np.where(ids == void, 0, ids).astype("<u4")
    return Image.fromarray(np.ascontiguousarray(levels.view(np.uint8).reshape(*ids.shape, 4)[:, :, :3]))


def panoptic_ids(levels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Reads the ids back from the levels of such a PNG.

    Args:
        levels: ``(H, W, 3)``.

    Returns:
        ``(H, W)``.
    """
    red, green, blue = (levels[:, :, channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 65536 * blue


def panoptic_entry(
    ids: NDArray[np.int32],
    segments: Sequence[Segment],
    file_name: str,
    image_id: Identity,
    categories: Sequence[Identity],
) -> dict[str, Any]:
    """Gives the entry of COCO's panoptic JSON for one picture, of its ``(H, W)`` ids and what they are."""
    entries = []
    for segment in segments:
        inside = ids == segment.id
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        entries.append(
            {
                "id": segment.id,
                "category_id": categories[segment.label],
                "area": segment.area,
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "iscrowd": 0,
            }
        )
    return {"image_id": image_id, "file_name": file_name, "segments_info": entries}
