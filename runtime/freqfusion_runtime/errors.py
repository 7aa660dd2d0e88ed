# SPDX-License-Identifier: Apache-2.0
"""The errors a user can cause and can mend; each message is a fact, then the remedy."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path


class FreqFusionError(Exception):
    """Root of the tree. The command line prints the message on one line and exits with status 2."""


class OutputError(FreqFusionError):
    """A file or folder that was to be written cannot be."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be written: {reason}. Name another place, or make this one writable.")


class ManifestError(FreqFusionError):
    """A manifest is missing, of another format version, or contradicts itself."""


class ModelFileError(FreqFusionError):
    """A file is no ONNX model, or none that this runtime can use."""


class ProviderError(FreqFusionError):
    """The device asked for cannot be had; there is no silent fallback to another one."""


class KernelLibraryError(FreqFusionError):
    """The custom-operator library is required and missing, or is there and cannot be loaded."""


class InputError(FreqFusionError, ValueError):
    """An array handed to a model has the wrong dtype, rank or size."""


class NetworkOutputError(FreqFusionError):
    """A model answered with something no label map can be made of."""


class PictureError(FreqFusionError):
    """A picture cannot be read."""


class PictureTooLargeError(PictureError):
    """A picture has more pixels than the limit allows; nothing of it was decoded."""

    def __init__(self, name: str, size: tuple[int, int], limit: int) -> None:
        width, height = size
        super().__init__(
            f"{name} is {width} x {height} = {width * height / 1e6:.1f} megapixels, "
            f"more than the limit of {limit / 1e6:.1f}. "
            "Make it smaller, or raise the limit (--max-pixels, or max_pixels= in Python) if the picture is trusted."
        )


class NoPicturesError(FreqFusionError):
    """None of the places named holds a picture."""

    def __init__(self, places: Sequence[Path], suffixes: Sequence[str]) -> None:
        super().__init__(
            f"no picture found in {', '.join(map(str, places))}. "
            f"Name files, or folders that hold files ending in {', '.join(suffixes)}."
        )


class ReferenceDataError(FreqFusionError):
    """Reference data is missing, damaged, or was made for another file."""


_OUT_OF_MEMORY = (
    *("ran out of memory", "bad_alloc", "bad allocation", "allocate memory", "Unable to allocate", "MemoryError"),
    *("Failed to allocate", "not enough memory"),
)
MORE_MEMORY = "Give it smaller pictures or fewer at a time, end what else uses memory, or take a machine with more."
"""What to do where memory ran out."""


def ran_out_of_memory(error: BaseException | str) -> bool:
    """Whether memory was what was missing; libraries written in C++ say so in words alone."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)
