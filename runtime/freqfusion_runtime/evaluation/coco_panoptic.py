# SPDX-License-Identifier: Apache-2.0
"""COCO's panoptic annotations, a JSON file and a folder of PNGs, and a model's quality on them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.errors import NetworkOutputError, PictureError
from freqfusion_runtime.evaluation.account import Dropped
from freqfusion_runtime.evaluation.annotation_file import (
    AnnotatedImage,
    AnnotationFile,
    category_fault,
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
        file: The JSON file, without the pictures that have no usable annotation.
        entries: Its annotation of each picture, by the picture's id, with the segments that can be used.
        unusable: Ids of each picture's other segments: their pixels are neither void nor anybody's.
        maps: Folder of the PNGs.
    """

    file: AnnotationFile
    entries: dict[Identity, dict[str, Any]]
    unusable: dict[Identity, set[int]]
    maps: Path

    def truth_of(self, image_id: Identity) -> tuple[NDArray[np.int64], dict[int, SegmentOf]]:
        """Reads the map of a picture, ``(H, W)``, and what its ids are; some of either may lack the other.

        Raises:
            DatasetError: If the map cannot be read.
        """
        entry = self.entries[image_id]
        try:
            ids = panoptic_ids(read_picture(self.maps / entry["file_name"]))
        except PictureError as e:
            raise DatasetError(f"the panoptic map of picture {image_id} cannot be read: {e}") from e
        segments = {
            record["id"]: SegmentOf(record["category_id"], bool(read_flag(record, "iscrowd", 0)))
            for record in entry["segments_info"]
        }
        return ids, segments


def read_panoptic_annotations(
    path: str | os.PathLike[str],
    pictures: str | os.PathLike[str],
    maps: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> PanopticAnnotations:
    """Reads panoptic annotations.

    A segment whose id, category or ``iscrowd`` cannot be used is dropped, and so is a picture without one annotation.

    Args:
        path: The JSON file.
        pictures: Folder of the pictures.
        maps: Folder of the PNGs; by default the one beside the file that has its name, as in COCO's archive.
        limit: As in :func:`read_annotation_file`.

    Raises:
        DatasetError: As :func:`read_annotation_file`; or this is no panoptic file.
    """
    file = read_annotation_file(path, pictures, limit)
    folder = Path(maps) if maps is not None else file.path.with_suffix("")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder. Name the folder of the PNGs of {file.path.name}.")
    if file.annotations and not any(map(_is_panoptic, file.annotations)):
        raise DatasetError(
            f"{file.path}: no annotation has segments_info and file_name, so this is no panoptic file. "
            "Name one, such as panoptic_val2017.json, or use --task instance."
        )
    for identity, record in file.categories.items():
        if read_flag(record, "isthing", 1) is None:
            raise DatasetError(
                f"{file.path}: category {identity} must have isthing of 0 or 1, got {record['isthing']!r:.40}. Mend it."
            )
    of_picture = defaultdict(list)
    for entry in file.annotations:
        of_picture[entry["image_id"]].append(entry)
    entries, unusable, dropped = {}, {}, list(file.dropped)
    for image in file.images:
        if fault := _picture_fault(of_picture[image.id]):
            dropped.append(Dropped("picture", image.path.name, fault))
            continue
        (entry,) = of_picture[image.id]
        segments, faults = _usable_segments(entry["segments_info"], file.categories)
        dropped += [Dropped("segment", f"{name} of {image.path.name}", fault) for name, fault in faults]
        entries[image.id] = {**entry, "segments_info": segments}
        unusable[image.id] = _ids(entry["segments_info"]) - _ids(segments)
    images = tuple(image for image in file.images if image.id in entries)
    file = replace(file, images=images, annotations=list(entries.values()), dropped=tuple(dropped))
    return PanopticAnnotations(file, entries, unusable, folder)


@dataclass(frozen=True)
class PanopticResult:
    """Panoptic quality of all categories, of things, of stuff, and of each category by name.

    ``scored`` and ``ignored`` count pixels and segments: void and crowds count for nothing. ``segments`` has the number
    of the truth's segments of each category that count. ``dropped`` and ``warnings`` say where maps and JSON differ.
    """

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[str, Quality]
    scored: dict[str, int]
    ignored: dict[str, int]
    segments: dict[Identity, int]
    dropped: tuple[Dropped, ...]
    warnings: tuple[str, ...]


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
    dropped, unseen = list[Dropped](), list[str]()
    for image in progress(file.images):
        try:
            found = predict(image.path)
            check_picture_size(file, image, found.photo.shape)
            truth, truth_segments = annotations.truth_of(image.id)
            check_picture_size(file, image, truth.shape)
        except (PictureError, DatasetError, NetworkOutputError) as e:
            if drop is None:
                raise
            drop(image, str(e))
            continue
        categories = categories or file.category_ids(found.classes)
        ids = np.where(found.ids == found.void, VOID, found.ids)
        # A class that the annotations do not have takes its pixels from others and counts for nothing itself.
        found_segments = {s.id: SegmentOf(-1 if (c := categories[s.label]) is None else c) for s in found.segments}
        score.add(truth, truth_segments, ids, found_segments)
        there = set(np.unique(truth).tolist()) - {VOID}
        for identity in sorted(there - truth_segments.keys() - annotations.unusable[image.id]):
            name = f"segment {identity} of {image.path.name}"
            dropped.append(Dropped("segment", name, "the map has it, and segments_info does not"))
        unseen += [f"{identity} of {image.path.name}" for identity in sorted(truth_segments.keys() - there)]
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
    told = (f"{len(unseen)} segments have no pixel in their map and count as missed: {listed(unseen)}",)
    return PanopticResult(
        all=score.quality(file.categories),
        things=score.quality(things),
        stuff=score.quality(stuff),
        per_class=named,
        scored=dict(scored),
        ignored=dict(ignored),
        segments=dict(segments),
        dropped=tuple(dropped),
        warnings=told if unseen else (),
    )


def _is_panoptic(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("segments_info"), list) and isinstance(entry.get("file_name"), str)


def _picture_fault(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a picture cannot be scored, of all annotations that it has."""
    if len(entries) != 1:
        return f"it has {len(entries)} annotations in the file, expected one"
    return None if _is_panoptic(entries[0]) else "its annotation lacks segments_info or file_name"


def _usable_segments(
    records: Sequence[Any], categories: Mapping[Identity, Any]
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The segments that can be used, and the name of each other one with why it cannot."""
    last: dict[int, dict[str, Any]] = {}
    faults = []
    for place, record in enumerate(records):
        identity = record.get("id") if isinstance(record, dict) else None
        if identity is None or not _is_id(identity):
            faults.append((f"segment number {place}", f"its id must be a whole number above 0, got {record!r:.60}"))
            continue
        if identity in last:
            faults.append((f"segment {identity}", "its id is there more than once, and the last one counts"))
        last[identity] = record
    usable = []
    for identity, record in last.items():
        if fault := _segment_fault(record, categories):
            faults.append((f"segment {identity}", fault))
        else:
            usable.append(record)
    return usable, faults


def _segment_fault(record: Mapping[str, Any], categories: Mapping[Identity, Any]) -> str | None:
    if read_flag(record, "iscrowd", 0) is None:
        return f"iscrowd must be 0 or 1, got {record['iscrowd']!r:.40}"
    return category_fault(record.get("category_id"), categories)


def _ids(records: Sequence[Any]) -> set[int]:
    return {record["id"] for record in records if isinstance(record, dict) and _is_id(record.get("id"))}


def _is_id(identity: Any) -> bool:
    is_whole = type(identity) is int or (type(identity) is float and identity.is_integer())
    return is_whole and bool(identity > 0)
