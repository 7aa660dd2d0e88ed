# SPDX-License-Identifier: Apache-2.0
"""A detection network around its session: pictures to its inputs, its outputs to checked boxes of the picture."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.errors import InputError, ModelFileError, NetworkOutputError
from freqfusion_runtime.model_files.classes.class_table import class_colors, class_names
from freqfusion_runtime.model_files.manifest import Task
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import MAX_PIXELS, Picture, PictureLike, read_picture
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from freqfusion_runtime.predictors.segmenter import timed
from freqfusion_runtime.sessions.protocol import Session

OBJECT_OUTPUTS = ("num", "boxes", "scores", "labels")
UNSETTLED = -1
"""``num`` of a picture whose boxes a file with unrolled suppression could not settle in its number of rounds."""
_REEXPORT = "Write the model again with `freqfusion export`."


@dataclass(frozen=True)
class Answer:
    """A network's checked answer for one picture.

    Args:
        photo: The picture.
        timings_ms: Of the stages so far.
        boxes: ``(N, 4)``, float32, in the picture's pixels.
        scores: ``(N,)``, float32, falling.
        labels: ``(N,)``, int64.
        masks: ``(N, M, M)``, logits; None of a network without masks.
        semantic: ``(S + 1, h, w)``, logits; None of a network without a semantic head.
    """

    photo: Picture
    timings_ms: dict[str, float]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[Any] | None
    semantic: NDArray[Any] | None

    def only(self, keep: NDArray[np.bool_]) -> Answer:
        """Keeps some of the objects."""
        masks = None if self.masks is None else self.masks[keep]
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], labels=self.labels[keep], masks=masks)


class ObjectNetwork:
    """What the three kinds of detection networks share. Safe to call from several threads.

    Args:
        session: Of an exported detector of either interface.
        task: What it must have been made for.
        further_outputs: What it must put out beside :data:`OBJECT_OUTPUTS`.
        max_pixels: Pictures with more are refused before they are decoded.

    Raises:
        ModelFileError: If the model is made for another task.
    """

    def __init__(
        self, session: Session, task: Task, further_outputs: tuple[str, ...] = (), max_pixels: int = MAX_PIXELS
    ) -> None:
        manifest = session.manifest
        if manifest.task != task:
            raise ModelFileError(f"{session.path} is made for {manifest.task}, not for {task}. Use another model.")
        self.outputs = (*OBJECT_OUTPUTS, *further_outputs)
        missing = [name for name in self.outputs if name not in {tensor.name for tensor in manifest.outputs}]
        if missing:
            raise ModelFileError(f"{session.path}: a model for {task} lacks {', '.join(missing)}. {_REEXPORT}")
        self.session = session
        self.max_pixels = max_pixels
        self.classes = class_names(manifest)
        self.palette = class_colors(manifest)
        self._things = manifest.num_things or manifest.num_classes

    def labels_of(self, classes: Collection[str]) -> list[int]:
        """Looks up classes by name.

        Raises:
            InputError: If there is none of a name.
        """
        unknown = [name for name in classes if name not in self.classes]
        if unknown:
            raise InputError(
                f"{self.session.path} knows no class {unknown[0]!r}. Choose from: {', '.join(self.classes)}."
            )
        return [self.classes.index(name) for name in classes]

    def answer(self, image: PictureLike, score_threshold: float) -> Answer:
        """Runs the network on one picture and keeps the objects with a higher score than the threshold."""
        timings: dict[str, float] = {}
        with timed(timings, "decode"):
            photo = read_picture(image, self.max_pixels)
        manifest = self.session.manifest
        height, width = photo.shape[:2]
        kept = keep_ratio_size(height, width, manifest.preprocessing)
        with timed(timings, "preprocess"):
            if manifest.interface == "image":
                inputs: dict[str, NDArray[Any]] = {manifest.inputs[0].name: photo[None]}
            else:
                tensor = prepare(photo, manifest.preprocessing).astype(manifest.inputs[0].dtype, copy=False)
                inputs = {manifest.inputs[0].name: tensor, manifest.inputs[1].name: np.array([kept], np.int64)}
        with timed(timings, "network"):
            outputs = self.session.run(inputs)
        with timed(timings, "postprocess"):
            boxes, scores, labels = self._checked(outputs)
            if manifest.interface == "tensor":
                # Two factors: each side was rounded by itself.
                boxes /= np.array([kept[1] / width, kept[0] / height] * 2, np.float32)
            masks = outputs["masks"][0, : len(scores)] if "masks" in self.outputs else None
            semantic = outputs["semantic"][0] if "semantic" in self.outputs else None
            return Answer(photo, timings, boxes, scores, labels, masks, semantic).only(scores > score_threshold)

    def _checked(
        self, outputs: dict[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Boxes, scores and labels of the objects there are."""
        num, boxes, scores, labels = (outputs[name] for name in OBJECT_OUTPUTS)
        slots = scores.shape[-1] if scores.ndim else 0
        shapes: dict[str, tuple[int, ...]] = {
            "num": (1,), "boxes": (1, slots, 4), "scores": (1, slots), "labels": (1, slots)
        }  # fmt: skip
        if "masks" in self.outputs:
            side = outputs["masks"].shape[-1]
            shapes["masks"] = (1, slots, side, side)
        for name, shape in shapes.items():
            if outputs[name].shape != shape:
                raise self.malformed(f"{name} must have shape {shape}, got {outputs[name].shape}")
        count = int(num[0])
        if count == UNSETTLED:
            raise NetworkOutputError(
                f"{self.session.path}: more boxes of this picture overlap in one chain than the file's suppression has "
                "rounds for. Use a file with the standard suppression for it."
            )
        if not 0 <= count <= slots:
            raise self.malformed(f"num must be from 0 to {slots}, got {count}")
        for name in shapes:
            if not np.isfinite(outputs[name][0, :count] if name != "num" else num).all():
                raise self.malformed(f"{name} holds values that are infinite or not a number")
        boxes = boxes[0, :count].astype(np.float32)
        scores = scores[0, :count].astype(np.float32, copy=False)
        labels = labels[0, :count].astype(np.int64, copy=False)
        if count and not (labels.min() >= 0 and labels.max() < self._things):
            raise self.malformed(f"labels must be from 0 to {self._things - 1}, got {labels.min()} to {labels.max()}")
        if (np.diff(scores) > 0).any():
            raise self.malformed(f"scores must fall, got {', '.join(f'{score:.3f}' for score in scores[:5])}, ...")
        return boxes, scores, labels

    def malformed(self, fact: str) -> NetworkOutputError:
        """Words an error about the network's answer."""
        return NetworkOutputError(f"{self.session.path}: {fact}. {_REEXPORT}")
