# SPDX-License-Identifier: Apache-2.0
"""One picture of a data set with its label map, and what is asked of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from freqfusion_runtime.evaluation.errors import DatasetError
from freqfusion_runtime.evaluation.label_values import READINGS

# The part that is scored where none is named, and those that a model is trained on.
_VALIDATION, _TRAINING = ("validation", "val"), ("training", "train")


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture ``(H, W, 3)`` uint8, its truth ``(H, W)``, where 255 is ignored, and the truth as in its file."""

    name: str
    picture: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    values: NDArray[np.uint8]


class Dataset(Protocol):
    """Samples by number."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes; None where only the model knows how many there are."""

    @property
    def reading(self) -> str:
        """How the values of label files are read, see ``label_values.READINGS``."""

    @property
    def other_readings(self) -> tuple[str, ...]:
        """How else they might be."""

    def name(self, index: int) -> str:
        """What a sample is called, without reading it."""

    def __len__(self) -> int:
        """How many samples there are."""

    def __getitem__(self, index: int) -> Sample:
        """Reads or draws one sample."""


def sample_of(
    name: str, picture: NDArray[np.uint8], labels: NDArray[np.uint8], reading: str, places: tuple[object, object]
) -> Sample:
    """Makes a sample of a picture and the values in its label file.

    Args:
        name: What the sample is called.
        picture: ``(H, W, 3)``.
        labels: ``(H, W)``, as in the file.
        reading: How its values are read.
        places: What errors call the picture and the label file.

    Raises:
        DatasetError: If they are of different sizes.
    """
    if labels.shape != picture.shape[:2]:
        raise DatasetError(
            f"{places[1]} is {labels.shape[1]} x {labels.shape[0]}, its picture {places[0]} "
            f"{picture.shape[1]} x {picture.shape[0]}. Pictures and labels must be of one size."
        )
    return Sample(name, picture, READINGS[reading][labels], labels)


def read_labels(source: Path | BinaryIO, name: str = "") -> NDArray[np.uint8]:
    """Reads a label file: one byte a pixel, palette or grey, or one bit.

    Args:
        source: Its path, or the file.
        name: What errors call it, if not by its path.

    Raises:
        DatasetError: If it is anything else.
    """
    name = name or str(source)
    try:
        with Image.open(source, formats=("PNG",)) as image:
            if image.mode not in ("L", "P", "1"):
                raise DatasetError(
                    f"{name} has mode {image.mode}; a label file holds one byte a pixel (mode L or P). Convert it."
                )
            return np.array(image).astype(np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError) as e:
        raise DatasetError(f"{name} cannot be read as a PNG of labels: {e}. Get a whole copy of it.") from e


def usual_part(place: Path, is_there: Callable[[str], bool]) -> str:
    """Which part of a data set to score where nobody says; the empty name for all.

    Raises:
        DatasetError: If only what a model is trained on is there.
    """
    found = [name for name in (*_VALIDATION, *_TRAINING) if is_there(name)]
    if found and found[0] in _TRAINING:
        raise DatasetError(
            f"{place} holds {found[0]} and none of {' and '.join(_VALIDATION)}; a model is not scored on what it was "
            f"trained on unasked. Name the part with --split, such as --split {found[0]}."
        )
    return found[0] if found else ""
