# SPDX-License-Identifier: Apache-2.0
"""The pixels of an opened picture file as ``cv2.imread(..., IMREAD_COLOR)`` gives them.

Pillow decodes; where its pixels differ from OpenCV's, they are made here of what it has not yet touched.
"""

from __future__ import annotations

import warnings
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image, ImageFile, ImageOps, TiffImagePlugin

from freqfusion_runtime.errors import PictureError
from freqfusion_runtime.pictures.tiff import decode_tiff, sample_bits

_PIECE = 1 << 15  # pixels
_DIM = 15  # of 255: the high byte of values that use 12 of 16 bits
_BITMAP_BITS = {"BGR;15": (5, 5, 5), "BGR;16": (5, 6, 5)}  # of red, green, blue


# Most bytes a pixel that decode() has at one time, its result included, by format, and by mode where that takes more;
# tests/runtime/pictures/test_decoding_memory.py holds them to what is measured.
_DECODING_BYTES = {"JPEG": 18, "MPO": 18, "PNG": 16, "WEBP": 31, "BMP": 17, "GIF": 31, "PPM": 17, "TIFF": 13}
_LARGER_MODES = {"CMYK": 21, "RGBA": 22, "RGBX": 22, "RGBa": 22, "LA": 22, "F": 22, "I": 22}
_DEEP_COLOR_BYTES = 34


def decoding_bytes(image: ImageFile.ImageFile) -> int:
    """Most memory that decoding an opened file takes, known from its header.

    Args:
        image: The file as Pillow opened it, its pixels not yet read.

    Returns:
        Bytes, the resulting picture included, the file itself not.
    """
    each = max(_DECODING_BYTES[str(image.format)], _LARGER_MODES.get(image.mode, 0))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = sample_bits(image)
        each = _DEEP_COLOR_BYTES if len(bits) > 2 and max(bits) > 8 else each
    return each * image.width * image.height


def decode(image: ImageFile.ImageFile, file: BinaryIO, name: str) -> NDArray[np.uint8]:
    """Reads the pixels of a file.

    Args:
        image: The file as Pillow opened it, its pixels not yet read.
        file: The same, open.
        name: What messages call it.

    Returns:
        ``(H, W, 3)``, uint8, RGB, upright.

    Raises:
        PictureError: If there is no rule to bring such pixels to 8 bits.
    """
    rawmode = _rawmode(image)
    bits = 16 if ";16" in rawmode else 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        values, bits = decode_tiff(image, file, name)
        picture = values if values.dtype == np.uint8 else _high_bytes(values, name)
    elif isinstance(image, GifImagePlugin.GifImageFile):
        picture = _first_frame(image, file)
    elif image.format == "PPM" and image.tile[0][0] != "ppm_plain" and rawmode != "1;I":
        picture, bits = _portable_map(image, file)
    elif image.format == "BMP" and rawmode in _BITMAP_BITS:
        picture, bits = _low_color(np.asarray(image), _BITMAP_BITS[rawmode]), 8
    else:
        picture = by_mode(ImageOps.exif_transpose(image), name)
    if bits == 16 and picture.max() <= _DIM:
        warnings.warn(
            f"{name} has 16-bit values, of which OpenCV takes the highest 8, and these are at most {picture.max()} of "
            "255: it is as good as black. Scale its values up to 65535.",
            stacklevel=4,
        )
    return _as_color(picture)


def by_mode(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Makes RGB of a decoded Pillow image: transparency is dropped, 16-bit values keep their high byte.

    Raises:
        PictureError: If it holds floating-point values, or whole numbers beyond 16 bits.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _as_color(_high_bytes(np.asarray(image), name))
    if image.mode == "CMYK":
        return _from_adobe_inks(np.asarray(image))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _as_color(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How Pillow is going to unpack the file's first block."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _high_bytes(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if values.dtype.kind == "f":
        raise PictureError(f"{name} holds floating-point values, which have no fixed range. Convert it to 8 bits.")
    if values.min() < 0 or values.max() > 0xFFFF:
        raise PictureError(
            f"{name} holds values from {values.min()} to {values.max()}, beyond 16 bits. Convert it to 8 bits."
        )
    return (values.astype(np.uint16) >> 8).astype(np.uint8)


def _from_adobe_inks(inks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Multiplies light by light: R = (255 - C) * (255 - K) / 255, with OpenCV's rounding.

    Source: ``icvCvt_CMYK2BGR_8u_C4C3R`` of OpenCV. Pillow has already undone Adobe's inversion.
    """
    result = np.empty((*inks.shape[:2], 3), np.uint8)
    # Piece by piece: as 32-bit numbers a whole picture would take ten times the memory of its bytes.
    pieces, rest = inks.reshape(-1, 4), result.reshape(-1, 3)
    for start in range(0, len(pieces), _PIECE):
        piece = pieces[start : start + _PIECE].astype(np.int32)
        light = 255 - piece[:, 3:]
        rest[start : start + _PIECE] = light - ((piece[:, :3] * light) >> 8)
    return result


def _first_frame(image: GifImagePlugin.GifImageFile, file: BinaryIO) -> NDArray[np.uint8]:
    """The screen after the first frame: its background colour shows where the frame is transparent or does not reach.

    Without a global palette the background is black.
    """
    left, top, right, bottom = image.tile[0][1] or (0, 0, *image.size)
    file.seek(0)
    head = file.read(13)
    has_palette, background = bool(head[10] & 0x80), head[11]
    palette = file.read(3 << (head[10] & 7) + 1) if has_palette else b""
    indices = np.asarray(image)
    frame = np.asarray(image.convert("RGB"))
    screen = np.empty_like(frame)
    screen[:] = np.frombuffer(palette[3 * background :][:3].ljust(3, b"\0"), np.uint8)
    seen = np.zeros(indices.shape, bool)
    seen[top:bottom, left:right] = True
    if (transparent := image.info.get("transparency")) is not None:
        seen &= indices != transparent
    screen[seen] = frame[seen]
    return screen


def _portable_map(image: ImageFile.ImageFile, file: BinaryIO) -> tuple[NDArray[np.uint8], int]:
    """A binary PGM or PPM, and how many bits its values have; they are not scaled by the maximum the file names."""
    _, _, offset, arguments = image.tile[0]
    is_wide = arguments[1] > 0xFF if isinstance(arguments, tuple) else ";16" in _rawmode(image)
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    size = int(np.prod(shape)) * (2 if is_wide else 1)
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise OSError(f"{len(data)} bytes of pixels where {size} are expected")
    values = np.frombuffer(data, ">u2" if is_wide else np.uint8).reshape(shape)
    return (values >> 8).astype(np.uint8) if is_wide else values, 16 if is_wide else 8


def _low_color(picture: NDArray[np.uint8], bits: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Takes back what Pillow did to levels of few bits, which OpenCV moves up without filling the rest."""
    channels = []
    for channel, count in enumerate(bits):
        levels = np.arange(2**count)
        table = np.zeros(256, np.uint8)
        table[levels * 255 // (2**count - 1)] = levels << (8 - count)
        channels.append(table[picture[:, :, channel]])
    return np.stack(channels, axis=2)
