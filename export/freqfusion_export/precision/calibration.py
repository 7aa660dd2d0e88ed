# SPDX-License-Identifier: Apache-2.0
"""The pictures that ranges and scales are taken from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from freqfusion_runtime.errors import NoPicturesError, PictureError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.manifest import Preprocessing
from freqfusion_runtime.pictures import SUFFIXES, find_pictures, read_picture
from freqfusion_runtime.preprocess import prepare
from numpy.typing import NDArray

from freqfusion_export.errors import ExportError


class CalibrationError(ExportError):
    """There are no pictures to calibrate with."""


@dataclass(frozen=True)
class Calibration:
    """A folder of pictures, each of which was read once to see that it can be.

    Attributes:
        folder: Where they are.
        pictures: The readable ones, in order of name.
        skipped: File name and reason of the others.
        sha256: Over the readable files' own hashes, in order: equal pictures, equal hash, whatever their names.
    """

    folder: Path
    pictures: tuple[Path, ...]
    skipped: tuple[tuple[str, str], ...]
    sha256: str

    def feeds(self, graph: ir.Graph, preprocessing: Preprocessing) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yields what to run ``graph`` on, one picture at a time.

        Raises:
            CalibrationError: If the graph wants more than a picture.
        """
        if len(graph.inputs) != 1:
            raise CalibrationError(
                f"calibration knows networks with one input, and this one has {len(graph.inputs)}. "
                "Calibrate its image interface, which has one."
            )
        (wanted,) = graph.inputs
        assert wanted.name is not None
        for path in self.pictures:
            picture = read_picture(path)
            is_picture = wanted.dtype == ir.DataType.UINT8
            yield {wanted.name: picture[None] if is_picture else prepare(picture, preprocessing)}


def read_calibration(folder: Path) -> Calibration:
    """Looks through a folder of pictures.

    Raises:
        CalibrationError: If it is none, cannot be read, or holds no readable picture.
    """
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        raise CalibrationError(f"the calibration folder {folder} {reason}. Name a folder of pictures.")
    try:
        found = find_pictures([folder])
    except OSError as e:
        raise CalibrationError(f"the calibration folder {folder} cannot be read: {e.strerror}. Allow it.") from e
    except NoPicturesError as e:
        raise CalibrationError(
            f"the calibration folder {folder} holds no picture ({', '.join(SUFFIXES)}). "
            "Put some tens of typical ones there."
        ) from e
    pictures, skipped = [], []
    digest = hashlib.sha256()
    for path in found:
        try:
            read_picture(path)
        except (PictureError, OSError) as e:
            skipped.append((path.name, str(e)))
            continue
        pictures.append(path)
        digest.update(bytes.fromhex(sha256_of(path)))
    if not pictures:
        raise CalibrationError(
            f"none of the {len(found)} pictures in the calibration folder {folder} can be read; "
            f"the first: {skipped[0][1]}"
        )
    return Calibration(folder, tuple(pictures), tuple(skipped), digest.hexdigest())
