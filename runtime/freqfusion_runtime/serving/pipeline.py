# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a picture to its label map: decoding and scaling in threads, the network on the device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.errors import NetworkOutputError, PictureError, PictureTooLargeError
from freqfusion_runtime.labels import labels_from_scores
from freqfusion_runtime.pictures import Picture, read_picture_bytes
from freqfusion_runtime.preprocess import fit, normalise
from freqfusion_runtime.segmentation import Segmentation
from freqfusion_runtime.serving.errors import BadPictureError, ModelFailedError, TooLargeError
from freqfusion_runtime.serving.memory import Holding
from freqfusion_runtime.serving.registry import LoadedModel
from freqfusion_runtime.serving.scheduler import Admission, Scheduler, Tensors
from freqfusion_runtime.serving.stages import Stages

T = TypeVar("T")

# What a request holds beside its body, per pixel: the photo, its tensor or label maps, and what is being encoded.
_BYTES_PER_PIXEL = 12


@dataclass(frozen=True, eq=False)
class _Prepared:
    photo: Picture
    inputs: Tensors
    network_size: tuple[int, int]


async def segment(
    model: LoadedModel,
    data: bytes,
    *,
    size: int | None,
    scheduler: Scheduler,
    admission: Admission,
    workers: Executor,
    holding: Holding,
    deadline: float,
    stages: Stages,
    finish: Callable[[Segmentation], T],
) -> T:
    """Labels one encoded picture.

    Args:
        model: The model.
        data: A picture file's content.
        size: The photo's long side is first reduced to this; None to leave it.
        scheduler: Runs the network.
        admission: The request's place in its queue.
        workers: Threads for everything else.
        holding: Charged with what decoding takes.
        deadline: By ``time.monotonic()``.
        stages: Filled with the time of each stage.
        finish: Makes something of the labels, in the thread that made them: each change of threads costs 0.1 ms, and
            several where the cores are busy.

    Returns:
        What ``finish`` returns.

    Raises:
        BadPictureError, TooLargeError: If the picture cannot be used.
        ServingError: As :meth:`Scheduler.run`.
    """
    loop = asyncio.get_running_loop()
    prepared = await loop.run_in_executor(workers, _prepare, model, data, size, holding, stages)
    outcome = await scheduler.run(model, prepared.inputs, deadline, admission)
    stages.add("queue", outcome.queue_ms)
    stages.add("inference", outcome.inference_ms)

    def conclude() -> T:
        labels = _labels(model, prepared, outcome.outputs, stages)
        return finish(Segmentation(labels, model.classes, model.palette, prepared.photo, stages.ms))

    return await loop.run_in_executor(workers, conclude)


def decode(data: bytes, max_pixels: int, holding: Holding) -> Picture:
    """Decodes a picture from a stranger.

    Raises:
        BadPictureError: If it is none.
        TooLargeError: If it has too many pixels; nothing of it was decoded.
        OverloadedError: If there is no memory for it now.
    """
    try:
        return read_picture_bytes(
            data, "the picture", max_pixels, before_decoding=lambda pixels: holding.add(pixels * _BYTES_PER_PIXEL)
        )
    except PictureError as e:
        fact = str(e).partition(". ")[0]  # the remedies are for those who run the server
        if isinstance(e, PictureTooLargeError) or isinstance(e.__cause__, Image.DecompressionBombError):
            raise TooLargeError(f"{fact}. Send a smaller one.") from e
        raise BadPictureError(f"{fact}. Send a whole JPEG, PNG, WebP, BMP, TIFF, GIF or PPM file.") from e


def shrink(photo: Picture, long_side: int | None) -> Picture:
    """Reduces a photo to a long side, ratio kept; a smaller one is left as it is."""
    height, width = photo.shape[:2]
    if long_side is None or max(height, width) <= long_side:
        return photo
    factor = long_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))


def _prepare(model: LoadedModel, data: bytes, long_side: int | None, holding: Holding, stages: Stages) -> _Prepared:
    manifest = model.session.manifest
    photo = stages.timed("decode", lambda: decode(data, model.max_pixels, holding))
    start = time.perf_counter()
    photo = shrink(photo, long_side)
    name = manifest.inputs[0].name
    if manifest.interface == "image":
        prepared = _Prepared(photo, {name: photo[None]}, (photo.shape[0], photo.shape[1]))
    else:
        fitted = fit(photo, manifest.preprocessing)
        tensor = normalise(fitted, manifest.preprocessing).astype(manifest.inputs[0].dtype, copy=False)
        prepared = _Prepared(photo, {name: tensor}, (fitted.shape[0], fitted.shape[1]))
    stages.add("preprocess", (time.perf_counter() - start) * 1e3)
    return prepared


def _labels(model: LoadedModel, prepared: _Prepared, outputs: Tensors, stages: Stages) -> NDArray[Any]:
    start = time.perf_counter()
    manifest = model.session.manifest
    result = outputs[manifest.outputs[0].name]
    size = (prepared.photo.shape[0], prepared.photo.shape[1])
    tensor = manifest.interface == "tensor"
    expected = (1, manifest.num_classes) if tensor else (1, *size)
    if result.shape[: 2 if tensor else 3] != expected or result.ndim != (4 if tensor else 3):
        raise ModelFailedError(
            f"model {model.source.name!r} answered with shape {result.shape}, expected {expected} and no label map "
            "can be made of it. Its file must be written again."
        )
    try:
        labels = labels_from_scores(result[0], prepared.network_size, size) if tensor else result[0]
    except NetworkOutputError as e:
        raise ModelFailedError(f"model {model.source.name!r} failed: {e}") from e
    smallest = np.uint8 if manifest.num_classes <= 256 else np.int32
    labels = labels.astype(smallest, copy=False)
    stages.add("postprocess", (time.perf_counter() - start) * 1e3)
    return labels
