# SPDX-License-Identifier: Apache-2.0
"""First runs of a model before it takes requests: they pay for memory, kernels and, on a GPU, compilation."""

from __future__ import annotations

import math

import numpy as np

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.free_sizes import usual_shapes
from freqfusion_runtime.pictures.sizes import network_size
from freqfusion_runtime.predictors.loading import predictor_of
from freqfusion_runtime.serving.scheduling.footprint import Footprint, Run, measure
from freqfusion_runtime.sessions.protocol import Session

_SIDE = 512  # the side SegNeXt is tested at
_LARGER = 2  # times each side, of the second picture: enough to tell what a pixel costs from what is made once


def warm_up(session: Session, max_pixels: int, measured: Footprint | None = None) -> Footprint:
    """Runs a model on two even grey pictures, as its task wants it; the second also shows that it can do it again.

    One of which nobody says what its tensors mean runs on zeros of the sizes that it was exported with.

    Args:
        session: The model.
        max_pixels: Most pixels the picture may have.
        measured: What its runs cost, if that is known; the model then runs once, on the smaller picture.

    Returns:
        What its runs cost in memory.

    Raises:
        ModelFileError: If no sense can be made of its answer.
    """
    manifest = session.manifest
    if manifest.task == "network":
        return _warm_up_network(session, max_pixels, measured)
    shape = manifest.inputs[0].shape
    sides = shape[1:3] if manifest.interface == "image" else shape[2:4]
    free = min(_SIDE, math.isqrt(max_pixels))
    height, width = (side if isinstance(side, int) else free for side in sides)
    is_free = not any(isinstance(side, int) for side in sides)
    if manifest.interface == "image" and hasattr(session, "usual_size"):
        # An engine may take no picture of that size; it knows its own.
        (height, width), is_free = session.usual_size, False
    factor = min(_LARGER, math.isqrt(max_pixels // (height * width))) if is_free else 1
    try:
        predictor = predictor_of(session, max_pixels)

        def run(height: int, width: int) -> Run:
            picture = np.full((height, width, 3), 128, np.uint8)
            inner = network_size(height, width, manifest.preprocessing)
            return Run(lambda: predictor.predict(picture), math.prod(inner), height * width)

        if measured is not None:
            run(height, width).work()
            return measured
        larger = run(factor * height, factor * width)
        if factor > 1:
            return measure(run(height, width), larger)
        footprint = measure(larger, None)
        larger.work()
        return footprint
    except Exception as e:  # whatever an engine raises: a model that fails here would fail each request
        raise ModelFileError(f"{session.path} was loaded but cannot label a picture: {e}") from e


def _warm_up_network(session: Session, max_pixels: int, measured: Footprint | None) -> Footprint:
    manifest = session.manifest

    def run(factor: int) -> Run:
        shapes = usual_shapes(manifest, factor)
        feed = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in manifest.inputs}
        numbers = math.prod(shapes[manifest.inputs[0].name])
        return Run(lambda: session.run(feed), numbers, numbers)

    try:
        usual, larger = run(1), run(_LARGER)
        if measured is not None:
            usual.work()
            return measured
        if usual.network_pixels < larger.network_pixels <= max_pixels and not hasattr(session, "usual_size"):
            return measure(usual, larger)
        footprint = measure(usual, None)
        usual.work()
        return footprint
    except Exception as e:  # as above
        raise ModelFileError(f"{session.path} was loaded but does not run on zeros: {e}") from e
