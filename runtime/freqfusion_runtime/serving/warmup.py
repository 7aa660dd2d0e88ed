# SPDX-License-Identifier: Apache-2.0
"""First runs of a model before it takes requests: they pay for memory, kernels and, on a GPU, compilation."""

from __future__ import annotations

import math

import numpy as np

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.segmenter import Segmenter

_RUNS = 2  # the second shows that the first left nothing broken, and is as fast as the later ones
_SIDE = 512  # the side SegNeXt is tested at


def warm_up(segmenter: Segmenter) -> None:
    """Labels an even grey picture twice.

    Raises:
        ModelFileError: If the model cannot label a picture.
    """
    shape = segmenter.session.manifest.inputs[0].shape
    sides = shape[1:3] if segmenter.session.manifest.interface == "image" else shape[2:4]
    free = min(_SIDE, math.isqrt(segmenter.max_pixels))
    height, width = (side if isinstance(side, int) else free for side in sides)
    picture = np.full((height, width, 3), 128, np.uint8)
    try:
        for _ in range(_RUNS):
            segmenter.predict(picture)
    except Exception as e:  # whatever an engine raises: a model that fails here would fail each request
        raise ModelFileError(f"{segmenter.session.path} was loaded but cannot label a picture: {e}") from e
