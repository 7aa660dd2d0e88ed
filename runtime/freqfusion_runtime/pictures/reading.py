# SPDX-License-Identifier: Apache-2.0
"""Pictures from files and arrays, as the 8-bit RGB that networks are fed with.

The official pipelines read with ``cv2.imread(..., IMREAD_COLOR)``; what that does with unusual pictures is done here:
EXIF rotation is applied, transparency is dropped without blending, 16-bit values keep their high byte, CMYK is taken as
Adobe writes it, animations give their first frame, colour profiles are ignored.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from freqfusion_runtime.errors import InputError, NoPicturesError, PictureError, PictureTooLargeError

Picture: TypeAlias = "NDArray[np.uint8]"  # (H, W, 3), RGB
PictureLike: TypeAlias = "NDArray[np.uint8] | Image.Image | str | os.PathLike[str]"

MAX_PIXELS = 64_000_000  # 192 MB decoded; a picture of 30000 x 30000 would take 2.7 GB
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")

# Pillow reads many more, one of them (EPS) by starting another program; a picture from a stranger must not choose that.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")

# What Pillow's decoders raise on damaged data, beside OSError.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, OverflowError)


def read_picture(picture: PictureLike, max_pixels: int = MAX_PIXELS) -> Picture:
    """Gives a picture as RGB.

    Args:
        picture: A path, a Pillow image, or ``(H, W, 3)`` uint8 in RGB order.
        max_pixels: Refuse anything larger before decoding it.

    Returns:
        ``(H, W, 3)``, uint8, RGB, contiguous.

    Raises:
        PictureError: If it cannot be read.
        PictureTooLargeError: If it has more than ``max_pixels``.
        InputError: If an array has another dtype or shape.
    """
    if isinstance(picture, np.ndarray):
        return _checked_array(picture, max_pixels)
    if isinstance(picture, Image.Image):
        return _decode(picture, "the image", max_pixels)
    path = Path(picture)
    if not path.is_file():
        raise PictureError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}. Name a picture file.")
    return _open(path, str(path), max_pixels)


def read_picture_bytes(
    data: bytes,
    name: str = "the picture",
    max_pixels: int = MAX_PIXELS,
    before_decoding: Callable[[int], None] = lambda _: None,
) -> Picture:
    """Gives a picture file's content as RGB; see :func:`read_picture`.

    Args:
        data: The file's bytes.
        name: What error messages call it.
        max_pixels: Refuse anything larger before decoding it.
        before_decoding: Called with the number of pixels; what it raises passes as it is.
    """
    return _open(io.BytesIO(data), name, max_pixels, before_decoding)


def find_pictures(places: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Lists picture files: each file as named, and those directly inside each folder, sorted, by suffix.

    Raises:
        PictureError: If a place does not exist.
        NoPicturesError: If nothing is found.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            found += sorted(entry for entry in place.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())
        elif place.exists():
            found.append(place)
        else:
            raise PictureError(f"{place} does not exist. Name a picture file or a folder of them.")
    if not found:
        raise NoPicturesError([Path(place) for place in places], SUFFIXES)
    return list(dict.fromkeys(found))


def _open(
    source: Path | io.BytesIO, name: str, max_pixels: int, before_decoding: Callable[[int], None] = lambda _: None
) -> Picture:
    with warnings.catch_warnings():
        # Pillow only warns between 89 and 179 million pixels; the limit here is ours and exact.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(source, formats=_FORMATS) as image:
                if image.width * image.height <= max_pixels:
                    before_decoding(image.width * image.height)
                return _decode(image, name, max_pixels)
        except Image.DecompressionBombError as e:
            raise PictureError(
                f"{name} is larger than the limit of {max_pixels / 1e6:.1f} megapixels: {e}. Make it smaller."
            ) from e
        except UnidentifiedImageError as e:
            raise PictureError(
                f"{name} is not a picture in one of the formats {', '.join(_FORMATS)}. Convert it to JPEG or PNG."
            ) from e
        except _DAMAGE as e:
            raise PictureError(f"{name} is damaged or truncated: {e}. Get a whole copy of it.") from e


def _checked_array(array: NDArray[Any], max_pixels: int) -> Picture:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"a picture must be uint8 of shape (height, width, 3) in RGB order, got {array.dtype} {array.shape}. "
            "Convert it, or give a path and let it be decoded here."
        )
    if 0 in array.shape:
        raise InputError(
            f"a picture must have at least one pixel, got shape {array.shape}. Check where it was cropped."
        )
    if array.shape[0] * array.shape[1] > max_pixels:
        raise PictureTooLargeError("the array", (array.shape[1], array.shape[0]), max_pixels)
    return np.ascontiguousarray(array)


def _decode(image: Image.Image, name: str, max_pixels: int) -> Picture:
    if image.width * image.height > max_pixels:
        raise PictureTooLargeError(name, image.size, max_pixels)
    if image.width * image.height == 0:
        raise PictureError(f"{name} has no pixels ({image.width} x {image.height}). Get a whole copy of it.")
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise PictureError(f"{name} holds floating-point values, which have no fixed range. Convert it to 8 bits.")
    if upright.mode.startswith("I"):
        return _from_16_bits(upright, name)
    if upright.mode == "CMYK":
        return _from_cmyk(upright)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _from_16_bits(image: Image.Image, name: str) -> Picture:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise PictureError(
            f"{name} holds values from {values.min()} to {values.max()}, beyond 16 bits. Convert it to 8 bits."
        )
    return np.repeat((values.astype(np.uint16) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def _from_cmyk(image: Image.Image) -> Picture:
    """Multiplies light by light: R = (255 - C) * (255 - K) / 255, with OpenCV's rounding.

    Source: ``icvCvt_CMYK2BGR_8u_C4C3R`` of OpenCV. Pillow has already undone Adobe's inversion.
    """
    inks = np.asarray(image).astype(np.int32)
    light = 255 - inks[:, :, 3:]
    result: Picture = (light - ((inks[:, :, :3] * light) >> 8)).astype(np.uint8)
    return result
