# SPDX-License-Identifier: Apache-2.0
"""Detector, instance segmenter and panoptic segmenter: a picture in, objects out."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from freqfusion_runtime.pictures.reading import MAX_PIXELS, PictureLike
from freqfusion_runtime.predictors.object_network import Answer, ObjectNetwork
from freqfusion_runtime.predictors.segmenter import timed
from freqfusion_runtime.results.detections import Detections, InstanceSegmentation, PanopticSegmentation
from freqfusion_runtime.results.labels import labels_of_picture
from freqfusion_runtime.results.panoptic_fusion import fuse
from freqfusion_runtime.results.region_mask import paste_masks
from freqfusion_runtime.sessions.protocol import Session


class Detector(ObjectNetwork):
    """Finds objects and their boxes. Safe to call from several threads."""

    def __init__(self, session: Session, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(session, "detection", max_pixels=max_pixels)

    def predict(
        self, image: PictureLike, *, score_threshold: float = 0.0, classes: Collection[str] | None = None
    ) -> Detections:
        """Finds the objects in one picture.

        Args:
            image: A path, a Pillow image, or ``(H, W, 3)`` uint8 in RGB order.
            score_threshold: Only objects with a higher score; the network's own limit, 0.05 in the official
                configurations, comes first.
            classes: Names of the only classes wanted, None for all.

        Raises:
            PictureError, InputError: If the picture cannot be read, or a class is unknown.
            NetworkOutputError: If the model's answer makes no detections.
        """
        answer = _of_classes(self, self.answer(image, score_threshold), classes)
        return Detections(
            answer.boxes, answer.scores, answer.labels, self.classes, self.palette, answer.photo, answer.timings_ms
        )


class InstanceSegmenter(ObjectNetwork):
    """Finds objects, their boxes and their masks. Safe to call from several threads."""

    def __init__(self, session: Session, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(session, "instance_segmentation", ("masks",), max_pixels)

    def predict(
        self, image: PictureLike, *, score_threshold: float = 0.0, classes: Collection[str] | None = None
    ) -> InstanceSegmentation:
        """Finds the objects in one picture and their masks; see :meth:`Detector.predict`."""
        return _instances(self, _of_classes(self, self.answer(image, score_threshold), classes))


class PanopticSegmenter(ObjectNetwork):
    """Gives every pixel a class and those of things an instance. Safe to call from several threads."""

    def __init__(self, session: Session, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(session, "panoptic_segmentation", ("masks", "semantic"), max_pixels)

    def predict(
        self, image: PictureLike, *, score_threshold: float = 0.0, classes: Collection[str] | None = None
    ) -> PanopticSegmentation:
        """Makes the panoptic map of one picture.

        Args:
            image: As in :meth:`Detector.predict`.
            score_threshold: Only objects with a higher score are laid over the stuff; the network's own limit, 0.6 in
                the official configurations, comes first.
            classes: Names of the only classes wanted, None for all. The map is made of all; then the pixels of others
                become void.

        Raises:
            PictureError, InputError, NetworkOutputError: As in :meth:`Detector.predict`.
        """
        wanted = None if classes is None else self.labels_of(classes)
        answer = self.answer(image, score_threshold)
        instances = _instances(self, answer)
        manifest = self.session.manifest
        things, total = manifest.num_things or 0, manifest.num_classes
        size = (answer.photo.shape[0], answer.photo.shape[1])
        semantic = answer.semantic
        if semantic is None or semantic.shape[0] != total - things + 1 or semantic.ndim != 3:
            found = None if semantic is None else semantic.shape
            raise self.malformed(f"semantic must have shape ({total - things + 1}, h, w) for a picture, got {found}")
        with timed(answer.timings_ms, "postprocess"):
            stuff = labels_of_picture(semantic, size, manifest.preprocessing)
            ids, segments = fuse(stuff, instances.masks, instances.scores, instances.labels, things, total)
        result = PanopticSegmentation(
            ids, segments, instances, self.classes, self.palette, answer.photo, answer.timings_ms
        )
        return result if wanted is None else result.only(wanted)


def _of_classes(network: ObjectNetwork, answer: Answer, classes: Collection[str] | None) -> Answer:
    return answer if classes is None else answer.only(np.isin(answer.labels, network.labels_of(classes)))


def _instances(network: ObjectNetwork, answer: Answer) -> InstanceSegmentation:
    assert answer.masks is not None  # an ObjectNetwork with the output "masks"
    with timed(answer.timings_ms, "postprocess"):
        masks = paste_masks(answer.masks, answer.boxes, (answer.photo.shape[0], answer.photo.shape[1]))
    return InstanceSegmentation(
        answer.boxes, answer.scores, answer.labels, network.classes, network.palette, answer.photo, answer.timings_ms,
        masks,
    )  # fmt: skip
