# SPDX-License-Identifier: Apache-2.0
"""First runs of a model before it takes requests: they pay for memory, kernels and, on a GPU, compilation."""

from __future__ import annotations

import math

import numpy as np

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.predictors.loading import predictor_of
from freqfusion_runtime.sessions.protocol import Session

_RUNS = 2  # the second shows that the first left nothing broken, and is as fast as the later ones
_SIDE = 512  # the side SegNeXt is tested at


def warm_up(session: Session, max_pixels: int, runs: int = _RUNS) -> None:
    """Runs a model on an even grey picture, as its task wants it.

    Args:
        session: The model.
        max_pixels: Most pixels the picture may have.
        runs: How often.

    Raises:
        ModelFileError: If no sense can be made of its answer.
    """
    manifest = session.manifest
    shape = manifest.inputs[0].shape
    sides = shape[1:3] if manifest.interface == "image" else shape[2:4]
    free = min(_SIDE, math.isqrt(max_pixels))
    height, width = (side if isinstance(side, int) else free for side in sides)
    if manifest.interface == "image":
        # An engine may take no picture of that size; it knows its own.
        height, width = getattr(session, "usual_size", (height, width))
    picture = np.full((height, width, 3), 128, np.uint8)
    try:
        predictor = predictor_of(session, max_pixels)
        for _ in range(runs):
            predictor.predict(picture)
    except Exception as e:  # whatever an engine raises: a model that fails here would fail each request
        raise ModelFileError(f"{session.path} was loaded but cannot label a picture: {e}") from e
