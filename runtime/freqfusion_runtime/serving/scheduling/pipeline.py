# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a picture to its label map: decoding and scaling in threads, the network on the device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.errors import NetworkOutputError, PictureError, PictureTooLargeError
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import Picture, read_picture_bytes
from freqfusion_runtime.results.labels import MASK_LOGITS, labels_of_outputs
from freqfusion_runtime.results.segmentation import Segmentation
from freqfusion_runtime.serving.operation.errors import BadPictureError, ModelFailedError, TooLargeError
from freqfusion_runtime.serving.operation.stages import Stages
from freqfusion_runtime.serving.scheduling.memory import Holding
from freqfusion_runtime.serving.scheduling.registry import LoadedModel
from freqfusion_runtime.serving.scheduling.scheduler import Admission, Outcome, Scheduler, Tensors, late

T = TypeVar("T")

# What a request holds beside its body, per pixel: the photo, its tensor or label maps, and what is being encoded.
_BYTES_PER_PIXEL = 12


@dataclass(frozen=True, eq=False)
class _Prepared:
    photo: Picture
    inputs: Tensors


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
        finish: Makes something of the labels, in the thread that made them.

    Returns:
        What ``finish`` returns.

    Raises:
        BadPictureError, TooLargeError: If the picture cannot be used.
        ServingError: As :meth:`Scheduler.infer`.
    """
    chain = _Chain(model, scheduler, admission, workers, deadline, stages, finish)
    workers.submit(chain.prepare, data, size, holding)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(chain.result), max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError as e:
        raise late(model) from e
    finally:
        chain.abandon()


class _Chain(Generic[T]):
    """One picture's way from a worker to the device and back to a worker.

    Each hands it on to the next by itself. By way of the event loop it would change threads twice more, which is 0.1 ms
    each, and several where the cores are busy or asleep.
    """

    def __init__(
        self,
        model: LoadedModel,
        scheduler: Scheduler,
        admission: Admission,
        workers: Executor,
        deadline: float,
        stages: Stages,
        finish: Callable[[Segmentation], T],
    ) -> None:
        self.result: Future[T] = Future()
        self._model, self._scheduler, self._admission, self._workers = model, scheduler, admission, workers
        self._deadline, self._stages, self._finish = deadline, stages, finish
        self._job: Future[Outcome] | None = None
        self._is_abandoned = False

    def prepare(self, data: bytes, size: int | None, holding: Holding) -> None:
        """Decodes the picture and queues it; for a worker."""
        try:
            if self._is_abandoned:
                return
            prepared = _prepare(self._model, data, size, holding, self._stages)
            self._job = self._scheduler.submit(self._model, prepared.inputs, self._deadline, self._admission)
            self._job.add_done_callback(lambda job: self._hand_on(job, prepared))
            if self._is_abandoned:  # meanwhile
                self._scheduler.give_up(self._job)
        except BaseException as e:
            self._fail(e)

    def abandon(self) -> None:
        """Ends what has not begun, once nobody waits for the result."""
        self._is_abandoned = True
        if self._job is not None:
            self._scheduler.give_up(self._job)

    def _hand_on(self, job: Future[Outcome], prepared: _Prepared) -> None:
        if job.cancelled() or self._is_abandoned:
            return
        error = job.exception()
        try:
            if error is not None:
                raise error
            self._workers.submit(self._conclude, job.result(), prepared)
        except BaseException as e:  # RuntimeError where the workers are shut down
            self._fail(e)

    def _conclude(self, outcome: Outcome, prepared: _Prepared) -> None:
        try:
            self._stages.add("queue", outcome.queue_ms)
            self._stages.add("inference", outcome.inference_ms)
            model = self._model
            labels = _labels(model, prepared, outcome.outputs, self._stages)
            photo = prepared.photo
            done = self._finish(Segmentation(labels, model.classes, model.palette, photo, self._stages.ms))
        except BaseException as e:
            self._fail(e)
        else:
            with suppress(InvalidStateError):  # cancelled meanwhile
                self.result.set_result(done)

    def _fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.result.set_exception(error)


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
            raise TooLargeError(
                f"{fact}. Send a smaller one, or start the server with a larger --max-image-pixels."
            ) from e
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
        prepared = _Prepared(photo, {name: photo[None]})
    else:
        tensor = prepare(photo, manifest.preprocessing).astype(manifest.inputs[0].dtype, copy=False)
        prepared = _Prepared(photo, {name: tensor})
    stages.add("preprocess", (time.perf_counter() - start) * 1e3)
    return prepared


def _labels(model: LoadedModel, prepared: _Prepared, outputs: Tensors, stages: Stages) -> NDArray[Any]:
    start = time.perf_counter()
    manifest = model.session.manifest
    result = outputs[manifest.outputs[0].name]
    size = (prepared.photo.shape[0], prepared.photo.shape[1])
    tensor = manifest.interface == "tensor"
    expected = (1, manifest.num_classes) if tensor else (1, *size)
    by_queries = tensor and manifest.outputs[0].name == MASK_LOGITS
    if not by_queries and (result.shape[: len(expected)] != expected or result.ndim != (4 if tensor else 3)):
        raise ModelFailedError(
            f"model {model.source.name!r} answered with shape {result.shape}, expected {expected} and no label map "
            "can be made of it. Its file must be written again."
        )
    try:
        labels = labels_of_outputs(outputs, size, manifest) if tensor else result[0]
    except NetworkOutputError as e:
        raise ModelFailedError(f"model {model.source.name!r} failed: {e}") from e
    smallest = np.uint8 if manifest.num_classes <= 256 else np.int32
    labels = labels.astype(smallest, copy=False)
    stages.add("postprocess", (time.perf_counter() - start) * 1e3)
    return labels
