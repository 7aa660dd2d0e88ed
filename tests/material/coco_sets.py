# SPDX-License-Identifier: Apache-2.0
"""Small data sets in COCO's layout, drawn by a seed: ellipses of three things on two kinds of stuff."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from freqfusion_runtime.results.region_mask import RegionMask
from PIL import Image
from small_detectors import STUFF, THINGS

CATEGORY_IDS = {"cat": 3, "dog": 7, "dragon": 8, "sky": 101, "grass": 200}  # with gaps, as COCO's
SIZE = (160, 200)
SKY, GRASS, FIRST_OBJECT = 1, 70_000, 300  # ids in the maps; one needs the third byte


@dataclass(frozen=True)
class CocoSet:
    """A data set's folder, as COCO lays it out."""

    folder: Path

    @property
    def pictures(self) -> Path:
        return self.folder / "val2017"

    @property
    def instances(self) -> Path:
        return self.folder / "annotations" / "instances_val2017.json"

    @property
    def panoptic(self) -> Path:
        return self.folder / "annotations" / "panoptic_val2017.json"

    @property
    def maps(self) -> Path:
        return self.folder / "annotations" / "panoptic_val2017"

    def edit(self, path: Path, change: Callable[[Any], Any]) -> None:
        """Rewrites one of the files; ``change`` gets its content and alters it."""
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def write_coco_set(folder: Path, count: int = 4, seed: int = 0) -> CocoSet:
    """Draws ``count`` pictures with up to five objects each and writes both kinds of annotations."""
    random = np.random.default_rng(seed)
    made = CocoSet(folder)
    for place in (made.pictures, made.maps):
        place.mkdir(parents=True)
    images, instances, panoptic = [], [], []
    for index in range(count):
        image = {"id": 100 + 7 * index, "file_name": f"{index:06}.png", "height": SIZE[0], "width": SIZE[1]}
        images.append(image)
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(made.pictures / str(image["file_name"]))
        ids = np.full(SIZE, SKY, np.int64)
        ids[SIZE[0] // 2 :] = GRASS
        names = {SKY: STUFF[0], GRASS: STUFF[1]}
        for number in range(int(random.integers(1, 6))):
            mask, name = _ellipse(random), THINGS[int(random.integers(0, len(THINGS)))]
            names[FIRST_OBJECT + number] = name
            ids[mask] = FIRST_OBJECT + number
            instances.append(_instance(len(instances) + 1, image["id"], name, mask))
        panoptic.append(_panoptic(image, ids, names))
        levels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)
        Image.fromarray(levels).save(made.maps / str(image["file_name"]))
    categories = [{"id": CATEGORY_IDS[name], "name": name, "isthing": int(name in THINGS)} for name in THINGS + STUFF]
    for path, chosen, entries in (
        (made.instances, categories[: len(THINGS)], instances),
        (made.panoptic, categories, panoptic),
    ):
        path.write_text(json.dumps({"images": images, "categories": chosen, "annotations": entries}))
    return made


def _ellipse(random: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx = random.uniform(20, SIZE[0] - 20), random.uniform(20, SIZE[1] - 20)
    ry, rx = random.uniform(6, 60, 2)
    inside: np.ndarray = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    return inside


def _instance(identity: int, image_id: int, name: str, mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return {
        "id": identity,
        "image_id": image_id,
        "category_id": CATEGORY_IDS[name],
        "bbox": [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": RegionMask(0, 0, mask, SIZE).code(),
    }


def _panoptic(image: dict[str, Any], ids: np.ndarray, names: dict[int, str]) -> dict[str, Any]:
    there = [identity for identity in names if (ids == identity).any()]
    return {
        "image_id": image["id"],
        "file_name": image["file_name"],
        "segments_info": [
            {"id": i, "category_id": CATEGORY_IDS[names[i]], "area": int((ids == i).sum()), "iscrowd": 0} for i in there
        ],
    }
