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
from freqfusion_runtime.pictures.sizes import network_size
from freqfusion_runtime.results.labels import MASK_LOGITS, checked_labels, labels_of_outputs
from freqfusion_runtime.results.segmentation import Segmentation
from freqfusion_runtime.serving.operation.errors import BadPictureError, ModelFailedError, TooLargeError
from freqfusion_runtime.serving.operation.stages import Stages
from freqfusion_runtime.serving.scheduling.jobs import Admission, Outcome, Tensors
from freqfusion_runtime.serving.scheduling.memory import Holding
from freqfusion_runtime.serving.scheduling.registry import LoadedModel
from freqfusion_runtime.serving.scheduling.scheduler import Scheduler, late

T = TypeVar("T")

_PREPARING_BYTES = 24  # for a pixel of the network's input: it in 8 bits, twice, as float32, and in the model's dtype


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
    finish_bytes: int,
) -> T:
    """Labels one encoded picture.

    Args:
        model: The model.
        data: A picture file's content.
        size: The photo's long side is first reduced to this; None to leave it.
        scheduler: Runs the network.
        admission: The request's place in its queue.
        workers: Threads for everything else.
        holding: Charged with what each step takes; held until the last thread has ended its work for the request.
        deadline: By ``time.monotonic()``.
        stages: Filled with the time of each stage.
        finish: Makes something of the labels, in the thread that made them.
        finish_bytes: Memory that it takes for each pixel.

    Returns:
        What ``finish`` returns.

    Raises:
        BadPictureError, TooLargeError: If the picture cannot be used.
        ServingError: As :meth:`Scheduler.infer`.
    """
    chain = _Chain(model, scheduler, admission, workers, deadline, stages, holding, finish, finish_bytes)
    chain.start(data, size)
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
        holding: Holding,
        finish: Callable[[Segmentation], T],
        finish_bytes: int,
    ) -> None:
        self.result: Future[T] = Future()
        self._model, self._scheduler, self._admission, self._workers = model, scheduler, admission, workers
        self._deadline, self._stages, self._holding = deadline, stages, holding
        self._finish, self._finish_bytes = finish, finish_bytes
        self._job: Future[Outcome] | None = None
        self._is_abandoned = False

    def start(self, data: bytes, size: int | None) -> None:
        """Hands the picture to a worker."""
        self._to_worker(lambda: self._prepare(data, size))

    def _to_worker(self, work: Callable[[], tuple[T] | None]) -> None:
        """Lets a worker do something, and holds the request's memory until it has; what it gives is the result."""
        part = self._holding.shared()

        def run() -> None:
            done, error = None, None
            try:
                if not self._is_abandoned:
                    done = work()
            except BaseException as e:
                error = e
            part.release()
            with suppress(InvalidStateError):  # cancelled meanwhile
                if error is not None:
                    self.result.set_exception(error)
                elif done is not None:
                    self.result.set_result(done[0])

        try:
            self._workers.submit(run)
        except BaseException:  # RuntimeError where the workers are shut down
            part.release()
            raise

    def _prepare(self, data: bytes, size: int | None) -> None:
        prepared = _prepare(self._model, data, size, self._holding, self._stages, self._finish_bytes)
        self._job = self._scheduler.submit(self._model, prepared.inputs, self._deadline, self._admission, self._holding)
        self._job.add_done_callback(lambda job: self._hand_on(job, prepared))
        if self._is_abandoned:  # meanwhile
            self._scheduler.give_up(self._job)

    def abandon(self) -> None:
        """Ends what has not begun, once nobody waits for the result."""
        self._is_abandoned = True
        if self._job is not None:
            self._scheduler.give_up(self._job)

    def _hand_on(self, job: Future[Outcome], prepared: _Prepared) -> None:
        if job.cancelled() or self._is_abandoned:
            return
        try:
            outcome = job.result()
            self._to_worker(lambda: self._conclude(outcome, prepared))
        except BaseException as e:  # RuntimeError where the workers are shut down
            with suppress(InvalidStateError):  # cancelled meanwhile
                self.result.set_exception(e)

    def _conclude(self, outcome: Outcome, prepared: _Prepared) -> tuple[T]:
        self._stages.add("queue", outcome.queue_ms)
        self._stages.add("inference", outcome.inference_ms)
        model = self._model
        labels = _labels(model, prepared, outcome.outputs, self._stages, self._holding)
        photo = prepared.photo
        return (self._finish(Segmentation(labels, model.classes, model.palette, photo, self._stages.ms)),)


def decode(data: bytes, max_pixels: int, holding: Holding) -> Picture:
    """Decodes a picture from a stranger; the holding has the picture's bytes afterwards.

    Raises:
        BadPictureError: If it is none.
        TooLargeError: If it has too many pixels; nothing of it was decoded.
        OverloadedError: If there is no memory for it now.
    """
    before = holding.size
    try:
        photo = read_picture_bytes(data, "the picture", max_pixels, before_decoding=holding.add)
    except PictureError as e:
        fact = str(e).partition(". ")[0]  # the remedies are for those who run the server
        if isinstance(e, PictureTooLargeError) or isinstance(e.__cause__, Image.DecompressionBombError):
            raise TooLargeError(
                f"{fact}. Send a smaller one, or start the server with a larger --max-image-pixels."
            ) from e
        raise BadPictureError(f"{fact}. Send a whole JPEG, PNG, WebP, BMP, TIFF, GIF or PPM file.") from e
    holding.give_back(holding.size - before - photo.nbytes)
    return photo


def shrink(photo: Picture, long_side: int | None) -> Picture:
    """Reduces a photo to a long side, ratio kept; a smaller one is left as it is."""
    height, width = photo.shape[:2]
    if long_side is None or max(height, width) <= long_side:
        return photo
    factor = long_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))


def _prepare(
    model: LoadedModel, data: bytes, long_side: int | None, holding: Holding, stages: Stages, finish_bytes: int
) -> _Prepared:
    manifest = model.session.manifest
    photo = stages.timed("decode", lambda: decode(data, model.max_pixels, holding))
    start = time.perf_counter()
    if long_side is not None and long_side < max(photo.shape[:2]):
        whole = photo.nbytes
        holding.add(2 * whole)  # Pillow's own copy, and the smaller picture
        photo = shrink(photo, long_side)
        holding.give_back(3 * whole - photo.nbytes)
    pixels = photo.shape[0] * photo.shape[1]
    labels = 1 if manifest.num_classes <= 256 else 4
    holding.add(pixels * (labels + finish_bytes))
    name = manifest.inputs[0].name
    if manifest.interface == "image":
        prepared = _Prepared(photo, {name: photo[None]})
    else:
        height, width = network_size(photo.shape[0], photo.shape[1], manifest.preprocessing)
        holding.add(height * width * _PREPARING_BYTES)
        tensor = prepare(photo, manifest.preprocessing).astype(manifest.inputs[0].dtype, copy=False)
        prepared = _Prepared(photo, {name: tensor})
    stages.add("preprocess", (time.perf_counter() - start) * 1e3)
    return prepared


def _labels(
    model: LoadedModel, prepared: _Prepared, outputs: Tensors, stages: Stages, holding: Holding
) -> NDArray[Any]:
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
    if tensor:
        holding.add(2 * result.nbytes)  # in another order, and whether each is finite
    try:
        labels: NDArray[Any] = (
            labels_of_outputs(outputs, size, manifest) if tensor else checked_labels(result[0], manifest.num_classes)
        )
    except NetworkOutputError as e:
        raise ModelFailedError(f"model {model.source.name!r} failed: {e}") from e
    stages.add("postprocess", (time.perf_counter() - start) * 1e3)
    return labels
