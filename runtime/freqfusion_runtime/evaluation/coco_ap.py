# SPDX-License-Identifier: Apache-2.0
"""COCO's average precision of boxes and masks, by faster-coco-eval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from freqfusion_runtime.evaluation.annotation_file import AnnotationFile, check_category, check_picture_size
from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.results.detections import Detections
from freqfusion_runtime.results.run_lengths import checked_counts

Kind = Literal["box", "mask"]
_IOU_TYPES = {"box": "bbox", "mask": "segm"}
_METRICS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 1", "AR 10", "AR 100")


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's numbers for boxes or for masks, in [0, 1]; None where no annotation counts.

    Args:
        kind: What was compared.
        values: By COCO's names.
        per_class: AP of each category by name.
    """

    kind: Kind
    values: dict[str, float | None]
    per_class: dict[str, float | None]


def checked_instances(annotations: AnnotationFile, masks: bool) -> AnnotationFile:
    """Checks every object of an instances file, so that the evaluation's native code gets nothing broken.

    Args:
        annotations: As read.
        masks: Whether masks will be compared.

    Raises:
        DatasetError: If a category is unknown, or a box or mask is broken.
    """
    sizes = {image.id: (image.height, image.width) for image in annotations.images}
    checked = []
    for place, entry in enumerate(annotations.annotations):
        what = f"annotation {entry.get('id', f'number {place}')}"
        check_category(annotations.path, what, entry.get("category_id"), annotations.categories)
        box = entry.get("bbox")
        if not (isinstance(box, list) and _numbers(box, 4) and box[2] >= 0 and box[3] >= 0):
            raise _broken(annotations.path, what, f"bbox must be x, y, width, height, got {box!r:.60}")
        if masks:
            _check_mask(annotations.path, what, entry.get("segmentation"), sizes[entry["image_id"]])
        # The API wants these two, which files written by hand often lack, and ids above 0.
        defaults = {"iscrowd": 0, "area": box[2] * box[3]}
        checked.append({**defaults, **entry, "id": place + 1})
    return replace(annotations, annotations=checked)


def results_of(
    predict: Callable[[Path], Detections], annotations: AnnotationFile, progress: Callable[[Any], Iterable[Any]] = iter
) -> list[dict[str, Any]]:
    """Runs a model on every picture.

    Args:
        predict: Gives the objects in a picture, all with a score above the model's own limit.
        annotations: What to run on.
        progress: Wraps the list of pictures, to show how far it is.

    Returns:
        Entries of a COCO results file, of classes that the annotations have.
    """
    results = []
    categories: Sequence[int | None] = ()
    for image in progress(annotations.images):
        found = predict(image.path)
        check_picture_size(annotations, image, found.photo.shape)
        categories = categories or annotations.category_ids(found.classes)
        entries = found.coco_results(image.id, [-1 if identity is None else identity for identity in categories])
        results += [entry for entry in entries if entry["category_id"] != -1]
    return results


def average_precision(results: list[dict[str, Any]], annotations: AnnotationFile, kind: Kind) -> AveragePrecision:
    """Compares results with :func:`checked_instances`."""
    from faster_coco_eval import COCO, COCOeval_faster  # an extra of its own

    content = {
        "info": {},
        "images": [{"id": i.id, "height": i.height, "width": i.width} for i in annotations.images],
        "categories": list(annotations.categories.values()),
        "annotations": annotations.annotations,
    }
    truth = COCO(content)
    # Copies, since the API writes into the entries; without masks for boxes, since their areas would decide the size.
    entries = [{k: v for k, v in entry.items() if kind == "mask" or k != "segmentation"} for entry in results]
    if kind == "mask":
        entries = [{k: v for k, v in entry.items() if k != "bbox"} for entry in entries]
    evaluation = COCOeval_faster(truth, truth.loadRes(entries), _IOU_TYPES[kind], print_function=lambda *_: None)
    evaluation.run()
    values = {name: _known(value) for name, value in zip(_METRICS, evaluation.stats, strict=False)}
    precision = evaluation.eval["precision"]  # (IoU, recall, category, area, detections)
    per_class = {}
    for index, identity in enumerate(evaluation.params.catIds):
        of_class = precision[:, :, index, 0, -1]
        counted = of_class[of_class > -1]
        name = str(annotations.categories[identity]["name"])
        per_class[name] = float(counted.mean()) if counted.size else None
    return AveragePrecision(kind, values, per_class)


def _known(value: Any) -> float | None:
    return None if value < 0 else float(value)  # the API says -1 where nothing counts


def _check_mask(path: Path, what: str, mask: Any, size: tuple[int, int]) -> None:
    if isinstance(mask, dict):
        try:
            _, found = checked_counts(mask)
        except ValueError as e:
            raise _broken(path, what, f"the run-length code is broken: {e}") from e
        if found != size:
            sizes = f"{found[0]} x {found[1]}, the picture has {size[0]} x {size[1]}"
            raise _broken(path, what, f"the run-length code is for {sizes}")
        return
    if not (isinstance(mask, list) and mask and all(_numbers(ring, None) and len(ring) % 2 == 0 for ring in mask)):
        raise _broken(path, what, f"segmentation must be polygons or a run-length code, got {mask!r:.60}")
    if min(len(ring) for ring in mask) < 6:
        raise _broken(path, what, "a polygon has fewer than 3 corners")


def _numbers(values: Any, count: int | None) -> bool:
    return (
        isinstance(values, list)
        and count in (None, len(values))
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _broken(path: Path, what: str, fact: str) -> DatasetError:
    return DatasetError(f"{path}: {what}: {fact}. Mend the file, or get a whole copy of it.")
