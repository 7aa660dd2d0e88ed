# SPDX-License-Identifier: Apache-2.0
"""Label maps that another program wrote, as PNG files with pixel value = label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion_runtime.engines.errors import GateError


def read_label_map(path: Path, picture: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Reads the label map of the picture of a name.

    Raises:
        GateError: If it is missing, no picture, or of another size.
    """
    if not path.is_file():
        raise GateError(
            f"{path} does not exist: there is no reference for {picture}. "
            "Put PyTorch's label map there, or leave --reference out."
        )
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)  # palette mode gives the indices, which are the labels
    except OSError as e:
        raise GateError(f"{path} is no picture ({e}). Write a PNG whose pixel values are labels.") from e
    if labels.shape != shape:
        raise GateError(
            f"{path} has shape {labels.shape}, the picture's labels have {shape}. Write it at the picture's size."
        )
    return labels
