# SPDX-License-Identifier: Apache-2.0
"""The pictures that ranges and scales are taken from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from freqfusion_runtime.agreement.array_archive import ArchiveError, ArrayArchive
from freqfusion_runtime.errors import NoPicturesError, PictureError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import SUFFIXES, find_pictures, read_picture
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from numpy.typing import NDArray

from freqfusion_export.errors import ExportError

_INPUTS = (("image",), ("images",), ("images", "image_sizes"))  # of the image interface, and of tensors


class CalibrationError(ExportError):
    """There are no pictures to calibrate with."""


ARRAYS = ".npz"


@dataclass(frozen=True)
class Calibration:
    """A folder of pictures, each of which was read once to see that it can be; or of arrays, for other networks.

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
            CalibrationError: If the graph wants something else than a picture, or its images and their sizes; or an
                array that is missing.
        """
        if self.is_arrays:
            yield from self._arrays(graph)
            return
        names = tuple(value.name for value in graph.inputs)
        if names not in _INPUTS:
            raise CalibrationError(
                f"calibration knows networks with the inputs {' or '.join(map(repr, _INPUTS))}, "
                f"and this one has {names}. Give it a folder of {ARRAYS} files with such arrays."
            )
        for path in self.pictures:
            picture = read_picture(path)
            if names == ("image",):
                yield {"image": picture[None]}
                continue
            feed: dict[str, NDArray[Any]] = {"images": prepare(picture, preprocessing)}
            if "image_sizes" in names:
                fitted = keep_ratio_size(picture.shape[0], picture.shape[1], preprocessing)
                feed["image_sizes"] = np.array([fitted], np.int64)
            yield feed

    @property
    def is_arrays(self) -> bool:
        """Whether the files hold a network's inputs, by name."""
        return all(path.suffix == ARRAYS for path in self.pictures)

    def _arrays(self, graph: ir.Graph) -> Iterator[Mapping[str, NDArray[Any]]]:
        names = [str(value.name) for value in graph.inputs]
        for path in self.pictures:
            with ArrayArchive(path) as archive:
                if missing := [name for name in names if name not in archive.names]:
                    raise CalibrationError(
                        f"{path} has no array {missing[0]!r}, only {', '.join(archive.names)}. "
                        "Write each input by its name: np.savez(FILE, NAME=ARRAY)."
                    )
                yield {name: archive.array(name) for name in names}


def read_calibration(folder: Path) -> Calibration:
    """Looks through a folder of pictures.

    Raises:
        CalibrationError: If it is none, cannot be read, or holds no readable picture and no arrays.
    """
    if not folder.is_dir():
        reason = "is a file" if folder.exists() else "does not exist"
        raise CalibrationError(f"the calibration folder {folder} {reason}. Name a folder of pictures.")
    if arrays := sorted(folder.glob(f"*{ARRAYS}")):
        return _of_arrays(folder, arrays)
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


def _of_arrays(folder: Path, found: Sequence[Path]) -> Calibration:
    readable, skipped = [], []
    digest = hashlib.sha256()
    for path in found:
        try:
            with ArrayArchive(path) as archive:
                for name in archive.names:
                    archive.array(name)
        except ArchiveError as e:
            skipped.append((path.name, str(e)))
            continue
        readable.append(path)
        digest.update(bytes.fromhex(sha256_of(path)))
    if not readable:
        raise CalibrationError(
            f"none of the {len(found)} files of arrays in the calibration folder {folder} can be read; "
            f"the first: {skipped[0][1]}"
        )
    return Calibration(folder, tuple(readable), tuple(skipped), digest.hexdigest())
