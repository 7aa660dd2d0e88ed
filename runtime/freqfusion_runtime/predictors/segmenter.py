# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation: a picture in, its label map out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from freqfusion_runtime.errors import ModelFileError, NetworkOutputError
from freqfusion_runtime.model_files.classes.class_table import class_colors, class_names
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import MAX_PIXELS, Picture, PictureLike, read_picture
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.results.labels import checked_labels, labels_of_outputs
from freqfusion_runtime.results.segmentation import Segmentation
from freqfusion_runtime.sessions.protocol import Kernels, Provider, Session


def load_segmenter(
    path: str | os.PathLike[str],
    *,
    provider: Provider = "cpu",
    threads: int = 0,
    kernels: Kernels = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Segmenter:
    """Opens an exported model that segments semantically; :func:`freqfusion_runtime.load` opens every kind.

    Args:
        path: An ``.onnx`` file written by ``freqfusion export``, of either interface.
        provider: Where to run; there is no fallback to another place.
        threads: Cores to use for one picture, 0 for all.
        kernels: ``auto`` uses the custom-operator library where it is found, ``never`` does not, ``require`` insists.
        max_pixels: Pictures with more are refused before they are decoded.

    Raises:
        FreqFusionError: If the file or the device cannot be used; the subclass says why.
    """
    return Segmenter(open_session(path, provider=provider, threads=threads, kernels=kernels), max_pixels)


class Segmenter:
    """Labels every pixel of pictures. Safe to call from several threads."""

    def __init__(self, session: Session, max_pixels: int = MAX_PIXELS) -> None:
        task = session.manifest.task
        if task != "semantic_segmentation":
            raise ModelFileError(
                f"{session.path} is made for {task}, not for semantic segmentation. Use another model."
            )
        self.session = session
        self.max_pixels = max_pixels
        self.classes = class_names(session.manifest)
        self.palette = class_colors(session.manifest)

    def predict(self, image: PictureLike) -> Segmentation:
        """Labels one picture.

        Args:
            image: A path, a Pillow image, or ``(H, W, 3)`` uint8 in RGB order.

        Returns:
            The label map at the picture's size, with names, colours and the time each stage took.

        Raises:
            PictureError, InputError: If the picture cannot be read.
            NetworkOutputError: If the model's answer makes no label map.
        """
        timings: dict[str, float] = {}
        with timed(timings, "decode"):
            photo = read_picture(image, self.max_pixels)
        if self.session.manifest.interface == "image":
            labels = self._by_image_interface(photo, timings)
        else:
            labels = self._by_tensor_interface(photo, timings)
        return Segmentation(labels, self.classes, self.palette, photo, timings)

    def _by_tensor_interface(self, photo: Picture, timings: dict[str, float]) -> NDArray[Any]:
        manifest = self.session.manifest
        with timed(timings, "preprocess"):
            tensor = prepare(photo, manifest.preprocessing).astype(manifest.inputs[0].dtype, copy=False)
        with timed(timings, "network"):
            outputs = self.session.run({manifest.inputs[0].name: tensor})
        with timed(timings, "postprocess"):
            try:
                return labels_of_outputs(outputs, (photo.shape[0], photo.shape[1]), manifest)
            except NetworkOutputError as e:
                raise NetworkOutputError(f"{self.session.path}: {e}") from e

    def _by_image_interface(self, photo: Picture, timings: dict[str, float]) -> NDArray[Any]:
        manifest = self.session.manifest
        timings["preprocess"] = 0.0  # the graph takes the picture as it is
        with timed(timings, "network"):
            labels = self.session.run({manifest.inputs[0].name: photo[None]})[manifest.outputs[0].name]
        if labels.shape != (1, *photo.shape[:2]):
            raise NetworkOutputError(
                f"{self.session.path}: the label map must have shape {(1, *photo.shape[:2])}, got {labels.shape}. "
                "Write the model again with `freqfusion export`."
            )
        with timed(timings, "postprocess"):
            try:
                return checked_labels(labels[0], manifest.num_classes)
            except NetworkOutputError as e:
                raise NetworkOutputError(f"{self.session.path}: {e}") from e


@contextmanager
def timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the block's time in milliseconds to a stage's."""
    start = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + (time.perf_counter() - start) * 1e3
