# SPDX-License-Identifier: Apache-2.0
"""COCO's panoptic annotations, a JSON file and a folder of PNGs, and a model's quality on them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.errors import PictureError
from freqfusion_runtime.evaluation.annotation_file import (
    AnnotatedImage,
    AnnotationFile,
    check_category,
    check_picture_size,
    listed,
    read_annotation_file,
    read_flag,
)
from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.evaluation.panoptic_quality import VOID, PanopticScore, Quality, SegmentOf
from freqfusion_runtime.pictures.reading import read_picture
from freqfusion_runtime.results.coco_format import Identity, panoptic_ids
from freqfusion_runtime.results.detections import PanopticSegmentation


@dataclass(frozen=True)
class PanopticAnnotations:
    """Panoptic annotations of a data set.

    Args:
        file: The JSON file.
        entries: Its annotation of each picture, by the picture's id.
        maps: Folder of the PNGs.
    """

    file: AnnotationFile
    entries: dict[Identity, dict[str, Any]]
    maps: Path

    def truth_of(self, image_id: Identity) -> tuple[NDArray[np.int64], dict[int, SegmentOf]]:
        """Reads the map of a picture, ``(H, W)``, and what its ids are.

        Raises:
            DatasetError: If map and JSON contradict each other.
        """
        entry = self.entries[image_id]
        path = self.maps / entry["file_name"]
        try:
            ids = panoptic_ids(read_picture(path))
        except PictureError as e:
            raise DatasetError(f"the panoptic map of picture {image_id} cannot be read: {e}") from e
        segments = {
            record["id"]: SegmentOf(record["category_id"], bool(read_flag(record, "iscrowd", 0)))
            for record in entry["segments_info"]
        }
        there = set(np.unique(ids).tolist()) - {VOID}
        for found, missing, where in ((there, set(segments), "the JSON"), (set(segments), there, "the map")):
            if extra := sorted(found - missing):
                raise DatasetError(f"{path}: {where} lacks the segments {listed(extra)}. Get a whole copy of both.")
        return ids, segments


def read_panoptic_annotations(
    path: str | os.PathLike[str],
    pictures: str | os.PathLike[str],
    maps: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> PanopticAnnotations:
    """Reads panoptic annotations.

    Args:
        path: The JSON file.
        pictures: Folder of the pictures.
        maps: Folder of the PNGs; by default the one beside the file that has its name, as in COCO's archive.
        limit: As in :func:`read_annotation_file`.

    Raises:
        DatasetError: As :func:`read_annotation_file`; or a picture has no map.
    """
    file = read_annotation_file(path, pictures, limit)
    folder = Path(maps) if maps is not None else file.path.with_suffix("")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder. Name the folder of the PNGs of {file.path.name}.")
    for entry in file.annotations:
        what = f"the annotation of picture {entry['image_id']}"
        records = entry.get("segments_info")
        if not isinstance(records, list) or not isinstance(entry.get("file_name"), str):
            raise DatasetError(
                f"{file.path}: {what} has no segments_info and file_name, so this is no panoptic file. "
                "Name one, such as panoptic_val2017.json, or use --task instance."
            )
        for record in records:
            if not isinstance(record, dict) or not _is_whole(record.get("id")):
                raise DatasetError(f"{file.path}: {what} has a segment whose id is no whole number: {record!r:.60}.")
            if read_flag(record, "iscrowd", 0) is None:
                crowd = record["iscrowd"]
                raise DatasetError(f"{file.path}: {what} has a segment whose iscrowd is not 0 or 1: {crowd!r:.40}.")
            check_category(file.path, f"{what}, segment {record['id']},", record.get("category_id"), file.categories)
        ids = [record["id"] for record in records]
        if len(set(ids)) < len(ids):
            raise DatasetError(f"{file.path}: {what} has a segment id twice, of {listed(ids)}. Get a whole copy of it.")
    entries = {entry["image_id"]: entry for entry in file.annotations}
    if len(entries) < len(file.annotations):
        twice = [key for key, count in Counter(e["image_id"] for e in file.annotations).items() if count > 1]
        raise DatasetError(f"{file.path} annotates the pictures {listed(twice)} more than once. Keep one of each.")
    for identity, record in file.categories.items():
        if read_flag(record, "isthing", 1) is None:
            raise DatasetError(
                f"{file.path}: category {identity} must have isthing of 0 or 1, got {record['isthing']!r:.40}. Mend it."
            )
    without = [image.path.name for image in file.images if image.id not in entries]
    if without:
        raise DatasetError(f"{file.path} has no annotation for {len(without)} pictures: {listed(without)}.")
    return PanopticAnnotations(file, entries, folder)


@dataclass(frozen=True)
class PanopticResult:
    """Panoptic quality of all categories, of things, of stuff, and of each category by name.

    ``scored`` and ``ignored`` count pixels and segments: void and crowds count for nothing. ``segments`` has the number
    of the truth's segments of each category that count.
    """

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[str, Quality]
    scored: dict[str, int]
    ignored: dict[str, int]
    segments: dict[Identity, int]


def panoptic_result(
    predict: Callable[[Path], PanopticSegmentation],
    annotations: PanopticAnnotations,
    progress: Callable[[Any], Iterable[Any]] = iter,
    keep: Callable[[str, PanopticSegmentation, Identity, Sequence[Identity | None]], None] | None = None,
    drop: Callable[[AnnotatedImage, str], None] | None = None,
) -> PanopticResult:
    """Runs a model on every picture and measures its quality; arguments as in ``coco_ap.results_of``.

    ``keep`` is called with each picture's file name, what was found, the picture's id, and the category id of each
    class, None of one that the annotations do not have.
    """
    score = PanopticScore()
    file = annotations.file
    categories: Sequence[Identity | None] = ()
    scored, ignored = Counter[str](), Counter[str]()
    segments: Counter[Identity] = Counter()
    for image in progress(file.images):
        try:
            found = predict(image.path)
            check_picture_size(file, image, found.photo.shape)
            truth, truth_segments = annotations.truth_of(image.id)
            check_picture_size(file, image, truth.shape)
        except (PictureError, DatasetError) as e:
            if drop is None:
                raise
            drop(image, str(e))
            continue
        categories = categories or file.category_ids(found.classes)
        ids = np.where(found.ids == found.void, VOID, found.ids)
        # A class that the annotations do not have takes its pixels from others and counts for nothing itself.
        found_segments = {s.id: SegmentOf(-1 if (c := categories[s.label]) is None else c) for s in found.segments}
        score.add(truth, truth_segments, ids, found_segments)
        void = int(np.count_nonzero(truth == VOID))
        counted = [s.category for s in truth_segments.values() if not s.is_crowd]
        segments.update(counted)
        scored.update(pictures=1, pixels=truth.size - void, segments=len(counted))
        ignored.update(pixels=void, segments=len(truth_segments) - len(counted))
        if keep is not None:
            keep(image.path.name, found, image.id, categories)
    things = {identity for identity, record in file.categories.items() if read_flag(record, "isthing", 1)}
    stuff = file.categories.keys() - things
    named = {str(record["name"]): score.quality([identity]) for identity, record in file.categories.items()}
    qualities = (score.quality(file.categories), score.quality(things), score.quality(stuff))
    return PanopticResult(*qualities, named, dict(scored), dict(ignored), dict(segments))


def _is_whole(identity: Any) -> bool:
    return type(identity) is int or (type(identity) is float and identity.is_integer())
