# SPDX-License-Identifier: Apache-2.0
"""Pictures from files and arrays, as the 8-bit RGB that networks are fed with.

The official pipelines read with ``cv2.imread(..., IMREAD_COLOR)``. These functions give the same pixels, and
docs/pictures.md says what that means for unusual pictures.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from freqfusion_runtime.errors import InputError, NoPicturesError, PictureError, PictureTooLargeError
from freqfusion_runtime.files import kind_of, open_regular
from freqfusion_runtime.pictures.decoding import by_mode, decode, decoding_bytes
from freqfusion_runtime.pictures.tiff import MAGIC as TIFF_MAGIC
from freqfusion_runtime.pictures.tiff import relabelled

Picture: TypeAlias = "NDArray[np.uint8]"  # (H, W, 3), RGB
PictureLike: TypeAlias = "NDArray[np.uint8] | Image.Image | str | os.PathLike[str]"

MAX_PIXELS = 64_000_000  # 192 MB decoded; a picture of 30000 x 30000 would take 2.7 GB
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib"),
    *(".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Pictures, too, but in formats that are not read; of raw and vector pictures the usual ones.
_OTHER_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".jxr", ".ico", ".tga", ".pcx"),
    *(".psd", ".exr", ".hdr", ".pfm", ".svg", ".eps", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
# The longest are uncompressed, with four channels of 16 bits; beside the pixels there may be colour profiles and such.
_MOST_BYTES_PER_PIXEL, _MOST_OTHER_BYTES = 8, 64 << 20
_NAMED = 5  # of the pictures that are left out

# Pillow reads many more, one of them (EPS) by starting another program; a picture from a stranger must not choose that.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")

_JPEG_START, _JPEG_END, _JPEG_RESTARTS = b"\xff\xd8", b"\xff\xd9", b"\xff\xdd"
_FILLERS = (b"", b"\x55" * 64, b"\xaa" * 64)

DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, OverflowError),
    *(KeyError, TypeError, ZeroDivisionError),  # of tags that hold something else than they should
)
"""What Pillow's decoders raise on damaged data."""


def read_picture(picture: PictureLike, max_pixels: int = MAX_PIXELS) -> Picture:
    """Gives a picture as RGB.

    Args:
        picture: A path; a Pillow image, which is taken as Pillow decodes it; or ``(H, W, 3)`` uint8 in RGB order.
        max_pixels: Refuse anything larger before decoding it. Beyond 89 million, Pillow's own limit is raised to it.

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
        _check_size(picture, "the image", max_pixels)
        return by_mode(ImageOps.exif_transpose(picture), "the image")
    path = Path(picture)
    if not os.path.isfile(path):  # which says no of what is too long for a name, too
        reason = f"is {kind_of(path.stat().st_mode)}" if os.path.exists(path) else "does not exist"
        raise PictureError(f"{path} {reason}. Name a picture file.")
    try:
        with path.open("rb") as file:  # Pillow, given a path, maps some files into memory and forgets to turn them
            return _open(file, str(path), max_pixels)
    except PermissionError as e:
        raise PictureError(f"{path} cannot be read: {(e.strerror or str(e)).lower()}. Check its rights.") from e


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
        before_decoding: Called with the most bytes that decoding will take, the result included; what it raises
            passes as it is.
    """
    return _open(io.BytesIO(data), name, max_pixels, before_decoding)


def read_encoded(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> bytes:
    """Reads a file as it is, if it is one and no longer than a picture of ``max_pixels`` can need to be.

    Raises:
        PictureError: If it is not, or is empty.
        OSError: If it cannot be read.
    """
    name, most = os.fspath(path), _MOST_BYTES_PER_PIXEL * max_pixels + _MOST_OTHER_BYTES
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size) if size <= most else b""
    if size > most:
        raise PictureError(
            f"{name} has {size} bytes, a picture of {max_pixels / 1e6:.1f} megapixels at most {most}. Make it smaller, "
            "or raise the limit (--max-pixels) if it is trusted."
        )
    if not data:
        raise PictureError(f"{name} is empty (0 bytes). Get a whole copy of it.")
    return data


def find_pictures(places: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Lists picture files: each file as named, and those directly inside each folder, sorted; see :func:`is_picture`.

    Pictures in a folder that are in no format read here are left out, with a warning that names them.

    Raises:
        PictureError: If a place does not exist.
        NoPicturesError: If nothing is found.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            files = sorted(entry for entry in place.iterdir() if entry.is_file())
            found += filter(is_picture, files)
            warn_of_left_out(place, files)
        elif place.is_file():
            found.append(place)
        else:
            reason = f"is {kind_of(place.stat().st_mode)}" if place.exists() else "does not exist"
            raise PictureError(f"{place} {reason}. Name a picture file or a folder of them.")
    if not found:
        raise NoPicturesError([Path(place) for place in places], SUFFIXES)
    return list(dict.fromkeys(found))


def is_picture(path: Path) -> bool:
    """Whether a file of a folder is taken for a picture: by its suffix, or if it has none, by its content."""
    if path.suffix:
        return path.suffix.lower() in SUFFIXES
    try:
        with open_regular(path) as file, _opened(file, MAX_PIXELS):
            return True
    except Image.DecompressionBombError:
        return True  # and too large, which is said when it is read
    except DAMAGE:
        return False


def warn_of_left_out(folder: Path, files: Iterable[Path]) -> None:
    """Warns of files whose suffix says that they are pictures in a format that is not read."""
    names = [str(file.relative_to(folder)) for file in files if file.suffix.lower() in _OTHER_SUFFIXES]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        warnings.warn(
            f"{folder}: left out for want of a reader: {len(names)} picture{'s' if len(names) > 1 else ''}, "
            f"{', '.join(names[:_NAMED])}{more}. Convert to JPEG or PNG what is to be read.",
            stacklevel=3,
        )


def _open(
    file: BinaryIO, name: str, max_pixels: int, before_decoding: Callable[[int], None] = lambda _: None
) -> Picture:
    def whole(file: BinaryIO) -> Picture:
        with _opened(file, max_pixels) as image:
            _check_size(image, name, max_pixels)
            before_decoding(decoding_bytes(image))
            return np.ascontiguousarray(decode(image, file, name))

    try:
        return whole(file)
    except Image.DecompressionBombError as e:
        raise PictureError(
            f"{name} is larger than the limit of {max_pixels / 1e6:.1f} megapixels: {e}. Make it smaller."
        ) from e
    except UnidentifiedImageError as e:
        if _start_of(file) in TIFF_MAGIC:
            return _open(relabelled(file, name), name, max_pixels, before_decoding)
        raise PictureError(
            f"{name} is not a picture in one of the formats {', '.join(_FORMATS)}. Convert it to JPEG or PNG."
        ) from e
    except DAMAGE as e:
        if _start_of(file)[:2] == _JPEG_START and (picture := _without_end(file, whole)) is not None:
            return picture
        raise PictureError(f"{name} is damaged or truncated: {e}. Get a whole copy of it.") from e


def _opened(file: BinaryIO, max_pixels: int) -> ImageFile.ImageFile:
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # a limit of the whole process, which Pillow asks once more as it decodes
    with warnings.catch_warnings():
        # Pillow only warns up to twice its limit; the limit here is exact.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(file, formats=_FORMATS)
    assert isinstance(image, ImageFile.ImageFile)  # as all of these formats are
    return image


def _start_of(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(4)


def _without_end(file: BinaryIO, whole: Callable[[BinaryIO], Picture]) -> Picture | None:
    """Reads a JPEG file that lacks its end marker and nothing else; gives None where pixels are missing, too.

    OpenCV reads on, whatever is missing. Here the picture must not depend on what comes instead of the missing bytes.
    """
    file.seek(0)
    data = file.read().rstrip(b"\xff")  # half an end marker
    if _JPEG_RESTARTS in data:  # an interval that is missing as a whole is grey, whatever comes instead
        return None
    try:
        one, *others = (whole(io.BytesIO(data + filler + _JPEG_END)) for filler in _FILLERS)
    except DAMAGE:
        return None
    return one if all(np.array_equal(one, other) for other in others) else None


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise PictureTooLargeError(name, image.size, max_pixels)
    if image.width * image.height == 0:
        raise PictureError(f"{name} has no pixels ({image.width} x {image.height}). Get a whole copy of it.")


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
