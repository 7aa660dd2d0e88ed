# SPDX-License-Identifier: Apache-2.0
"""Files of data sets: annotations, label maps, and lists of pictures."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
from freqfusion_runtime.errors import FreqFusionError
from fuzzing.memory import OwnMemory
from fuzzing.mutations import mutated, mutated_json
from PIL import Image

_CATEGORIES = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
_IMAGES = [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}]
INSTANCES = {
    "images": _IMAGES,
    "categories": _CATEGORIES,
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 2], "area": 6.0, "iscrowd": 0,
         "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 6, 4], "area": 24, "iscrowd": 1,
         "segmentation": {"size": [4, 6], "counts": [0, 4, 20]}},
    ],
}  # fmt: skip
PANOPTIC = {
    "images": _IMAGES,
    "categories": _CATEGORIES,
    "annotations": [
        {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 5, "category_id": 1, "iscrowd": 0, "area": 24}]}
    ],
}


class Annotations(OwnMemory):
    """COCO's files of instances and of panoptic maps, up to what is handed to whoever scores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "maps").mkdir()
        Image.new("RGB", (6, 4)).save(folder / "a.png")
        Image.new("RGB", (6, 4), (5, 0, 0)).save(folder / "maps" / "a.png")

    def make(self, rng: random.Random) -> Any:
        return mutated_json(rng, rng.choice((INSTANCES, PANOPTIC)))

    def give(self, case: Any) -> bool:
        path = self.folder / "annotations.json"
        path.write_bytes(case)
        taken = False
        for read in (self._instances, self._panoptic):
            try:
                read(path)
                taken = True
            except FreqFusionError:
                continue
        return taken

    def _instances(self, path: Path) -> None:
        from freqfusion_runtime.evaluation.annotation_file import read_annotation_file
        from freqfusion_runtime.evaluation.coco_ap import average_precision, checked_instances

        checked = checked_instances(read_annotation_file(path, self.folder), masks=True)
        checked.category_ids(("cat", "sky"))
        found = [{"image_id": checked.images[0].id, "category_id": next(iter(checked.categories)), "bbox": [0, 0, 3, 2],
                  "score": 0.5}]  # fmt: skip
        average_precision(found, checked, "box")

    def _panoptic(self, path: Path) -> None:
        from freqfusion_runtime.evaluation.coco_panoptic import read_panoptic_annotations

        annotations = read_panoptic_annotations(path, self.folder, self.folder / "maps")
        for image in annotations.file.images:
            annotations.truth_of(image.id)


class LabelPng(OwnMemory):
    """Label maps as PNG, and as the reading of a data set takes them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "labels.png"
        levels = np.random.default_rng(0).integers(0, 5, (12, 9), np.uint8)
        self.seeds = []
        for image in (Image.fromarray(levels), Image.fromarray(levels).convert("P"), Image.fromarray(levels > 2)):
            stream = io.BytesIO()
            image.save(stream, "PNG")
            self.seeds.append(stream.getvalue())

    def make(self, rng: random.Random) -> Any:
        return mutated(rng, self.seeds)

    def give(self, case: Any) -> bool:
        from freqfusion_runtime.evaluation.samples import read_labels

        self.path.write_bytes(case)
        try:
            return read_labels(self.path).dtype == np.uint8
        except FreqFusionError:
            return False


class PictureList(OwnMemory):
    """The list of a batch: a path in each line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        Image.new("RGB", (6, 4)).save(folder / "a.png")
        self.seeds = [b"a.png\nb/../a.png\n\xff\xfe.png\n/dev/null\nx y.png\r\n", b"a.png\n" * 20]

    def make(self, rng: random.Random) -> Any:
        return mutated(rng, self.seeds)

    def give(self, case: Any) -> bool:
        from freqfusion_runtime.batch.items import check_items_stay, content, find_items

        path = self.folder / "list.txt"
        path.write_bytes(case)
        try:
            found = find_items(path)
            check_items_stay(found.items, path, self.folder / "output")
        except FreqFusionError:
            return False
        read = 0
        for item in found.items:
            try:
                read += len(content(item)) > 0
            except FreqFusionError:
                continue
        return read > 0
