# SPDX-License-Identifier: Apache-2.0
"""First runs of a model before it takes requests: they pay for memory, kernels and, on a GPU, compilation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.manifest import Manifest
from freqfusion_runtime.preprocess import keep_ratio_size, prepare
from freqfusion_runtime.segmenter import Segmenter
from freqfusion_runtime.session import Session

_RUNS = 2  # the second shows that the first left nothing broken, and is as fast as the later ones
_SIDE = 512  # the side SegNeXt is tested at


def warm_up(session: Session, max_pixels: int) -> None:
    """Runs a model on an even grey picture twice; one that segments must make label maps of it.

    Args:
        session: The model.
        max_pixels: Most pixels the picture may have.

    Raises:
        ModelFileError: If the model cannot do that.
    """
    manifest = session.manifest
    shape = manifest.inputs[0].shape
    sides = shape[1:3] if manifest.interface == "image" else shape[2:4]
    free = min(_SIDE, math.isqrt(max_pixels))
    height, width = (side if isinstance(side, int) else free for side in sides)
    picture = np.full((height, width, 3), 128, np.uint8)
    try:
        for _ in range(_RUNS):
            if manifest.task == "semantic_segmentation":
                Segmenter(session, max_pixels).predict(picture)
            else:
                session.run(_inputs(manifest, picture))
    except Exception as e:  # whatever an engine raises: a model that fails here would fail each request
        raise ModelFileError(f"{session.path} was loaded but cannot label a picture: {e}") from e


def _inputs(manifest: Manifest, picture: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """A picture's tensors for a model of any task: the picture, and its size before padding where that is wanted."""
    first, *others = manifest.inputs
    kept = keep_ratio_size(*picture.shape[:2], manifest.preprocessing)
    image = picture[None]
    if manifest.interface == "tensor":
        image = prepare(picture, manifest.preprocessing).astype(first.dtype, copy=False)  # type: ignore[assignment]
    return {first.name: image, **{spec.name: np.array([kept], spec.dtype) for spec in others}}
