# SPDX-License-Identifier: Apache-2.0
"""What a detector, an instance segmenter and a panoptic segmenter find in a picture, and the files made of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.files import atomic_path, json_text, make_folder
from freqfusion_runtime.model_files.classes.class_table import Color
from freqfusion_runtime.results.coco_format import (
    Identity,
    category_ids,
    instance_entries,
    panoptic_entry,
    panoptic_image,
)
from freqfusion_runtime.results.panoptic_fusion import Segment
from freqfusion_runtime.results.region_mask import RegionMask
from freqfusion_runtime.results.segmentation import ClassShare

if TYPE_CHECKING:
    from freqfusion_runtime.pictures.reading import Picture

Found = TypeVar("Found", bound="Detections")


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects with their boxes, the best score first.

    Args:
        boxes: ``(N, 4)``, float32: x1 y1 x2 y2 in pixels of the picture.
        scores: ``(N,)``, float32 in [0, 1], falling.
        labels: ``(N,)``, int64, place in ``classes``.
        classes: Name of each label.
        palette: RGB colour of each label.
        photo: The picture itself, ``(H, W, 3)`` uint8 RGB.
        timings_ms: Time each stage took, in order: decode, preprocess, network, postprocess.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    photo: Picture
    timings_ms: dict[str, float]

    def __len__(self) -> int:
        return len(self.scores)

    def only(self: Found, keep: NDArray[np.bool_]) -> Found:
        """Keeps some of the objects.

        Args:
            keep: ``(N,)``.
        """
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep])

    def coco_results(
        self, image_id: Identity = 0, categories: Sequence[Identity] | None = None
    ) -> list[dict[str, Any]]:
        """Gives the objects as entries of a COCO results file.

        Args:
            image_id: What the annotation file calls the picture.
            categories: Id of each class, COCO's own by default.
        """
        categories = categories or category_ids(self.classes)
        return instance_entries(self.boxes, self.scores, self.labels, image_id, categories)

    def overlay(self) -> Image.Image:
        """Draws the photo with what was found."""
        from freqfusion_runtime.results.detection_overlay import draw_detections  # not needed by those who want arrays

        return draw_detections(self)

    def save(
        self, folder: str | os.PathLike[str], stem: str, overlay_format: str = "png", image_id: Identity = 0
    ) -> dict[str, Path]:
        """Writes ``<stem>.detections.json``, a COCO results file, and ``<stem>.overlay.<overlay_format>``.

        Args:
            folder: Made where it is missing.
            stem: File name without suffix, usually the photo's.
            overlay_format: ``png`` or ``jpg``.
            image_id: What results of several pictures are told apart by.

        Returns:
            The path of each kind of file.

        Raises:
            OutputError: If one cannot be written.
        """
        place = make_folder(folder)
        written = {"detections": place / f"{stem}.detections.json"}
        _write_json(written["detections"], self.coco_results(image_id))
        return {**written, "overlay": _save_overlay(self.overlay(), place, stem, overlay_format)}

    def facts(self) -> dict[str, Any]:
        """Lists what was found, for JSON."""
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return {
            "objects": [
                {"label": label, "name": self.classes[label], "score": round(score, 5), "box": _rounded(box)}
                for label, score, box in rows
            ]
        }

    def summary(self) -> str:
        """Words what was found on one line."""
        if not len(self):
            return "nothing found"
        counts = Counter(self.labels.tolist())
        return _listed([f"{count} {self.classes[label]}" for label, count in counts.most_common()])


@dataclass(frozen=True, eq=False)
class InstanceSegmentation(Detections):
    """Objects with their boxes and masks, the best score first.

    Args:
        masks: N, each of the picture's size.
    """

    masks: tuple[RegionMask, ...] = ()

    def only(self, keep: NDArray[np.bool_]) -> InstanceSegmentation:
        """Keeps some of the objects; see :meth:`Detections.only`."""
        kept = super().only(keep)
        return replace(kept, masks=tuple(self.masks[index] for index in np.flatnonzero(keep).tolist()))

    def coco_results(
        self, image_id: Identity = 0, categories: Sequence[Identity] | None = None
    ) -> list[dict[str, Any]]:
        """Gives the objects with their masks as entries of a COCO results file; see :meth:`Detections.coco_results`."""
        entries = super().coco_results(image_id, categories)
        return [{**entry, "segmentation": m.code()} for entry, m in zip(entries, self.masks, strict=True)]

    def dense_masks(self) -> NDArray[np.bool_]:
        """Gives all masks as one array, ``(N, H, W)``; a hundred of a 1-megapixel photo are 100 MB."""
        whole = np.zeros((len(self), *self.photo.shape[:2]), bool)
        for index, mask in enumerate(self.masks):
            whole[index][mask.region] = mask.bits
        return whole

    def facts(self) -> dict[str, Any]:
        """Lists what was found, for JSON."""
        objects = super().facts()["objects"]
        return {"objects": [{**entry, "pixels": m.area} for entry, m in zip(objects, self.masks, strict=True)]}


@dataclass(frozen=True, eq=False)
class PanopticSegmentation:
    """A class for every pixel, and an instance for those of things.

    Args:
        ids: ``(H, W)``, int32: class + 1000 * instance, instances counting from 1 and stuff being 0. The value
            ``len(classes)`` is void: no class.
        segments: What the ids are, instances first, the best score first.
        instances: The detections and masks the things were made of, some of which were dropped.
        classes, palette: Of things and stuff.
        photo, timings_ms: As in :class:`Detections`.
    """

    ids: NDArray[np.int32]
    segments: tuple[Segment, ...]
    instances: InstanceSegmentation
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    photo: Picture
    timings_ms: dict[str, float]

    @property
    def void(self) -> int:
        """The id of pixels without a class."""
        return len(self.classes)

    def only(self, labels: Collection[int]) -> PanopticSegmentation:
        """Keeps the segments of some classes; the others' pixels become void."""
        kept = tuple(segment for segment in self.segments if segment.label in labels)
        dropped = [segment.id for segment in self.segments if segment.label not in labels]
        ids = np.where(np.isin(self.ids, dropped), np.int32(self.void), self.ids)
        return replace(self, ids=ids, segments=kept)

    def shares(self) -> list[ClassShare]:
        """Lists the classes that are present, the largest first; void is none."""
        areas: Counter[int] = Counter()
        for segment in self.segments:
            areas[segment.label] += segment.area
        return [
            ClassShare(label, self.classes[label], self.palette[label], area, area / self.ids.size)
            for label, area in sorted(areas.items(), key=lambda entry: (-entry[1], entry[0]))
        ]

    def coco_image(self) -> Image.Image:
        """Draws the ids as COCO's panoptic PNG: id = R + 256 G + 65536 B, void being 0."""
        return panoptic_image(self.ids, self.void)

    def coco_entry(
        self, file_name: str, image_id: Identity = 0, categories: Sequence[Identity] | None = None
    ) -> dict[str, Any]:
        """Gives the entry of COCO's panoptic JSON that belongs to :meth:`coco_image`.

        Args:
            file_name: Of the PNG.
            image_id: What the annotation file calls the picture.
            categories: Id of each class, COCO's own by default.
        """
        categories = categories or category_ids(self.classes)
        return panoptic_entry(self.ids, self.segments, file_name, image_id, categories)

    def overlay(self) -> Image.Image:
        """Draws the photo with its segments and a legend."""
        from freqfusion_runtime.results.detection_overlay import draw_panoptic  # as above

        return draw_panoptic(self)

    def save(
        self, folder: str | os.PathLike[str], stem: str, overlay_format: str = "png", image_id: Identity = 0
    ) -> dict[str, Path]:
        """Writes ``<stem>.panoptic.png``, ``<stem>.panoptic.json`` and the overlay; see :meth:`Detections.save`."""
        place = make_folder(folder)
        written = {"panoptic": place / f"{stem}.panoptic.png", "segments": place / f"{stem}.panoptic.json"}
        with atomic_path(written["panoptic"]) as temporary:
            self.coco_image().save(temporary)
        _write_json(written["segments"], {"annotations": [self.coco_entry(written["panoptic"].name, image_id)]})
        return {**written, "overlay": _save_overlay(self.overlay(), place, stem, overlay_format)}

    def facts(self) -> dict[str, Any]:
        """Lists what was found, for JSON."""
        return {
            "segments": [
                {
                    "id": segment.id,
                    "label": segment.label,
                    "name": self.classes[segment.label],
                    "is_thing": segment.is_thing,
                    "pixels": segment.area,
                    "score": None if segment.score is None else round(segment.score, 5),
                }
                for segment in self.segments
            ],
            "void_pixels": int(np.count_nonzero(self.ids == self.void)),
        }

    def summary(self) -> str:
        """Words what was found on one line."""
        if not self.segments:
            return "nothing found"
        things = Counter(segment.label for segment in self.segments if segment.is_thing)
        named = [f"{count} {self.classes[label]}" for label, count in things.most_common()]
        named += [self.classes[segment.label] for segment in self.segments if not segment.is_thing]
        return _listed(named)


_NAMED = 5  # on the line of a picture; overlay and JSON name all


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _rounded(box: list[float]) -> list[float]:
    return [round(side, 2) for side in box]


def _write_json(path: Path, content: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(content) + "\n", encoding="utf-8")


def _save_overlay(picture: Image.Image, place: Path, stem: str, overlay_format: str) -> Path:
    path = place / f"{stem}.overlay.{overlay_format}"
    with atomic_path(path) as temporary:
        picture.save(temporary, quality=92)  # PNG has no quality and ignores it
    return path
