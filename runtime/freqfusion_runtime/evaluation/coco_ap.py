# SPDX-License-Identifier: Apache-2.0
"""COCO's average precision of boxes and masks, by faster-coco-eval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from freqfusion_runtime.errors import NetworkOutputError, PictureError
from freqfusion_runtime.evaluation.account import Dropped
from freqfusion_runtime.evaluation.annotation_file import (
    AnnotatedImage,
    AnnotationFile,
    annotation_name,
    category_fault,
    check_picture_size,
    read_flag,
)
from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.results.coco_format import Identity
from freqfusion_runtime.results.detections import Detections
from freqfusion_runtime.results.run_lengths import checked_counts

Kind = Literal["box", "mask"]
_IOU_TYPES = {"box": "bbox", "mask": "segm"}
_LONGEST_OUTLINE = 1_000_000  # pixels: the evaluation's native code makes room for each of them, unasked where they lie
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
    """Takes what can be scored of an instances file, so that the evaluation's native code gets nothing broken.

    An object whose category or ``iscrowd`` cannot be used is dropped. A bad ring is dropped from its polygon, as
    mmdetection and detectron2 do; an object without any good one, or with a broken run-length code, has no
    ``segmentation`` then and counts for boxes only; one without a sound box has no ``bbox`` and counts for masks only.
    An area that is no number is counted in the mask, as COCO's are.

    Args:
        annotations: As read.
        masks: Whether masks will be compared.
    """
    sizes = {image.id: (image.height, image.width) for image in annotations.images}
    checked, dropped = [], list(annotations.dropped)
    areas: Counter[str] = Counter()
    for place, entry in enumerate(annotations.annotations):
        name = annotation_name(entry, place)
        if reason := _unusable(entry, annotations):
            dropped.append(Dropped("object", name, reason))
            continue
        mask, faults = _usable_mask(entry.get("segmentation"), sizes[entry["image_id"]])
        box_fault = _box_fault(entry.get("bbox"))
        if box_fault:
            only_mask = masks and mask is not None
            dropped.append(Dropped("box" if only_mask else "object", name, box_fault))
            if not only_mask:
                continue
        if masks:
            dropped += [Dropped("ring" if mask is not None else "mask", name, fault) for fault in faults]
        kept = {key: value for key, value in entry.items() if key not in ("segmentation", "bbox")}
        if not box_fault:
            kept["bbox"] = entry["bbox"]
        if mask is not None:
            kept["segmentation"] = mask
        if not _numbers([entry.get("area")], 1) or entry["area"] < 0:
            kept["area"], source = _area(kept.get("bbox"), mask, sizes[entry["image_id"]])
            areas[source] += 1
        # The API wants ids above 0, and files written by hand often lack them.
        checked.append({**kept, "iscrowd": int(read_flag(entry, "iscrowd", 0) or 0), "id": place + 1})
    warnings = list(annotations.warnings)
    if areas:
        told = " and ".join(f"that of the {source} was taken for {count}" for source, count in areas.items())
        warnings.append(
            f"{areas.total()} objects have no area of their own, which decides whether they are small: {told}"
        )
    return replace(annotations, annotations=checked, dropped=tuple(dropped), warnings=tuple(warnings))


def account_of(annotations: AnnotationFile, kind: Kind) -> tuple[int, int]:
    """How many objects of :func:`checked_instances` count, and how many are crowds, which excuse and do not count."""
    entries = _of_kind(annotations.annotations, kind)
    crowds = sum(entry["iscrowd"] for entry in entries)
    return len(entries) - crowds, crowds


def results_of(
    predict: Callable[[Path], Detections],
    annotations: AnnotationFile,
    progress: Callable[[Any], Iterable[Any]] = iter,
    drop: Callable[[AnnotatedImage, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Runs a model on every picture.

    Args:
        predict: Gives the objects in a picture, all with a score above the model's own limit.
        annotations: What to run on.
        progress: Wraps the list of pictures, to show how far it is.
        drop: Told of each picture that cannot be scored, and why; without it the first ends everything.

    Returns:
        Entries of a COCO results file, of classes that the annotations have.

    Raises:
        PictureError, DatasetError, NetworkOutputError: If a picture cannot be read or has another size, or the model
            has no answer to it, and there is no ``drop``.
    """
    results = []
    categories: Sequence[Identity | None] = ()
    for image in progress(annotations.images):
        try:
            found = predict(image.path)
            check_picture_size(annotations, image, found.photo.shape)
        except (PictureError, DatasetError, NetworkOutputError) as e:
            if drop is None:
                raise
            drop(image, str(e))
            continue
        categories = categories or annotations.category_ids(found.classes)
        known = [label for label, identity in enumerate(categories) if identity is not None]
        found = found.only(np.isin(found.labels, known))
        results += found.coco_results(image.id, ["" if identity is None else identity for identity in categories])
    return results


def average_precision(results: list[dict[str, Any]], annotations: AnnotationFile, kind: Kind) -> AveragePrecision:
    """Compares results with :func:`checked_instances`."""
    from faster_coco_eval import COCO, COCOeval_faster  # an extra of its own

    # Numbers of ours: the API passes ids through doubles, which hold no timestamp's nanoseconds and no text. Pictures
    # go in the order of their ids, which decides between equal scores.
    ordered = sorted(annotations.images, key=lambda image: (isinstance(image.id, str), image.id))
    images = {image.id: number for number, image in enumerate(ordered, 1)}
    categories = {identity: number for number, identity in enumerate(annotations.categories, 1)}

    def renumbered(entry: Mapping[str, Any], left_out: str | None = None) -> dict[str, Any]:
        own = {"image_id": images[entry["image_id"]], "category_id": categories[entry["category_id"]]}
        return {**{key: value for key, value in entry.items() if key != left_out}, **own}

    content = {
        "info": {},
        "images": [{"id": images[i.id], "height": i.height, "width": i.width} for i in annotations.images],
        "categories": [{"id": number, "name": str(number)} for number in categories.values()],
        "annotations": [renumbered(entry) for entry in _of_kind(annotations.annotations, kind)],
    }
    truth = COCO(content)
    # Copies, since the API writes into the entries; without masks for boxes, since their areas would decide the size.
    other = "bbox" if kind == "mask" else "segmentation"
    entries = [renumbered(entry, other) for entry in results if entry["image_id"] in images]
    evaluation = COCOeval_faster(truth, truth.loadRes(entries), _IOU_TYPES[kind], print_function=lambda *_: None)
    evaluation.run()
    values = {name: _known(value) for name, value in zip(_METRICS, evaluation.stats, strict=False)}
    precision = evaluation.eval["precision"]  # (IoU, recall, category, area, detections)
    per_class = {}
    for index, name in enumerate(annotations.names().values()):
        of_class = precision[:, :, index, 0, -1]
        counted = of_class[of_class > -1]
        per_class[name] = float(counted.mean()) if counted.size else None
    return AveragePrecision(kind, values, per_class)


def _known(value: Any) -> float | None:
    return None if value < 0 else float(value)  # the API says -1 where nothing counts


def _of_kind(entries: list[dict[str, Any]], kind: Kind) -> list[dict[str, Any]]:
    """Those that have a box, or a mask."""
    return [entry for entry in entries if ("bbox" if kind == "box" else "segmentation") in entry]


def _unusable(entry: Mapping[str, Any], annotations: AnnotationFile) -> str | None:
    """Why an object can count for nothing at all."""
    if fault := category_fault(entry.get("category_id"), annotations.categories):
        return fault
    if read_flag(entry, "iscrowd", 0) is None:
        return f"iscrowd must be 0 or 1, got {entry['iscrowd']!r:.40}"
    return None


def _box_fault(box: Any) -> str | None:
    if isinstance(box, list) and _numbers(box, 4) and box[2] >= 0 and box[3] >= 0:
        return None
    return f"bbox must be x, y, width, height, got {box!r:.60}"


def _usable_mask(mask: Any, size: tuple[int, int]) -> tuple[Any, list[str]]:
    """What is sound of a ``segmentation``, None for nothing, and what is wrong with the rest."""
    if isinstance(mask, dict):
        try:
            _, found = checked_counts(mask)
        except ValueError as e:
            return None, [f"the run-length code is broken: {e}"]
        if found != size:
            sizes = f"{found[0]} x {found[1]}, the picture has {size[0]} x {size[1]}"
            return None, [f"the run-length code is for {sizes}"]
        return mask, []
    if not isinstance(mask, list) or not mask or not any(isinstance(ring, list) for ring in mask):
        return None, [f"segmentation must be polygons or a run-length code, got {mask!r:.60}"]
    faults = {place: fault for place, ring in enumerate(mask) if (fault := _ring_fault(ring))}
    good = [ring for place, ring in enumerate(mask) if place not in faults]
    return good or None, list(faults.values())


def _ring_fault(ring: Any) -> str | None:
    if not _numbers(ring, None) or len(ring) % 2:
        return f"a polygon must be a list of x and y in turn, got {ring!r:.60}"
    if len(ring) < 6:
        return f"a polygon has fewer than 3 corners: {ring!r:.60}"
    corners = np.array(ring, np.float64).reshape(-1, 2)
    with np.errstate(over="ignore"):
        length = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum()
    if not (length <= _LONGEST_OUTLINE and np.abs(corners).max() <= _LONGEST_OUTLINE):
        return f"a polygon's outline is {length:.0f} pixels long, more than {_LONGEST_OUTLINE}, or as far away"
    return None


def _area(box: Sequence[float] | None, mask: Any, size: tuple[int, int]) -> tuple[float, str]:
    """An object's area in pixels, and what it was taken from."""
    if mask is None:
        assert box is not None  # an object has one of them
        return box[2] * box[3], "box"
    if isinstance(mask, dict):
        return int(checked_counts(mask)[0][1::2].sum()), "mask"
    from faster_coco_eval.core import mask as codes

    return int(codes.area(codes.merge(codes.frPyObjects(mask, *size)))), "mask"


def _numbers(values: Any, count: int | None) -> bool:
    return (
        isinstance(values, list)
        and count in (None, len(values))
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )
