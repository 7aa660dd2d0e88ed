# SPDX-License-Identifier: Apache-2.0
"""TIFF as the official reader sees it, which is as libtiff's ``TIFFReadRGBAStrip`` does.

Pillow unpacks the samples. What they mean is settled here, since Pillow keeps the high byte of 16-bit colours, divides
by alpha, and takes some layouts for others. A layout without a rule is refused by name.

Source: ``tif_getimage.c`` of libtiff 4.7, ``grfmt_tiff.cpp`` of OpenCV 5.
"""

from __future__ import annotations

import io
import struct
import sys
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from freqfusion_runtime.errors import PictureError

_PIECE = 1 << 15  # pixels
MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

# TIFF tags.
_WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 258, 259, 262, 277, 284
_COLORMAP, _DOT_RANGE, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 320, 336, 338, 339
# Their values.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_IN_PLANES, _UNASSOCIATED, _UNSIGNED, _FLOAT = 2, 2, 1, 3
_OLD_JPEG, _JPEG = 6, 7
_SHORT = 3  # a type

_MEANINGS = {
    _WHITE_IS_ZERO: "grey, white is zero",
    _BLACK_IS_ZERO: "grey, black is zero",
    _RGB: "RGB",
    _PALETTE: "palette",
    4: "mask",
    _CMYK: "CMYK",
    _YCBCR: "YCbCr",
    8: "CIE Lab",
    9: "ICC Lab",
    10: "ITU Lab",
    32803: "colour filter array",
    34892: "linear raw",
}
# (meaning, samples, bits of each) that Pillow unpacks rightly; 32 bits are refused later, by their values.
_KNOWN = {
    *((_WHITE_IS_ZERO, 1, bits) for bits in (1, 2, 4, 8, 16)),
    *((_BLACK_IS_ZERO, 1, bits) for bits in (1, 2, 4, 8, 16, 32)),
    *((grey, 2, 8) for grey in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)),
    *((grey, n, bits) for grey in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) for n in (3, 4) for bits in (8, 16)),
    *((_RGB, samples, bits) for samples in (3, 4) for bits in (8, 16)),
    *((_PALETTE, 1, bits) for bits in (1, 2, 4, 8)),
    (_CMYK, 4, 8),
    (_YCBCR, 3, 8),
}
_KNOWN_IN_PLANES = {(_RGB, 3, 8), (_CMYK, 4, 8), (_BLACK_IS_ZERO, 3, 8)}


@dataclass(frozen=True)
class _Layout:
    """What the tags say of a pixel."""

    meaning: int
    bits: tuple[int, ...]
    format: int
    extra: tuple[int, ...]
    in_planes: bool
    compression: int

    @property
    def samples(self) -> int:
        return len(self.bits)

    @property
    def is_grey(self) -> bool:
        return self.meaning in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)

    @property
    def is_known(self) -> bool:
        key = (self.meaning, self.samples, self.bits[0])
        return (
            len(set(self.bits)) == 1
            and key in (_KNOWN_IN_PLANES if self.in_planes else _KNOWN)
            and (self.format == _UNSIGNED or self.samples == 1)
            and not (self.is_grey and self.in_planes and self.extra[:1] == (_UNASSOCIATED,))  # as if it were colours
            and not (self.is_grey and self.samples > 1 and self.compression == _JPEG)
            and (self.meaning != _YCBCR or self.compression == _JPEG)
            and self.compression != _OLD_JPEG
        )

    @property
    def words(self) -> str:
        kind = {_UNSIGNED: "", 2: "signed ", _FLOAT: "floating-point "}.get(self.format, "strange ")
        bits = " and ".join(str(count) for count in sorted(set(self.bits)))
        meaning = _MEANINGS.get(self.meaning, f"photometric interpretation {self.meaning}")
        planes = ", in planes" if self.in_planes else ""
        samples = "1 sample" if self.samples == 1 else f"{self.samples} samples"
        return f"{samples} of {bits} bits ({kind}{meaning}{planes}, compression {self.compression})"


def decode_tiff(image: TiffImagePlugin.TiffImageFile, file: BinaryIO, name: str) -> tuple[NDArray[Any], int]:
    """Reads the first picture of a TIFF file.

    Args:
        image: The file as Pillow opened it, its pixels not yet read.
        file: The same, open.
        name: What error messages call it.

    Returns:
        The upright picture and how many bits its samples had: ``(H, W)`` or ``(H, W, 3)`` uint8; of 32 bits ``(H, W)``
        as the file has them.

    Raises:
        PictureError: If no rule is known for its pixels.
    """
    layout = _layout(image.tag_v2)
    if isinstance(file, Relabelled):
        layout = replace(layout, meaning=file.meaning)
    if not layout.is_known:
        raise _refusal(layout, name)
    bits = layout.bits[0]
    if layout.is_grey:
        return _grey(image, layout), bits
    if layout.meaning == _RGB:
        return _color(image, file, layout), bits
    if layout.meaning == _PALETTE:
        return _from_palette(image), bits
    if layout.meaning == _CMYK:
        return _light(np.asarray(image)), bits
    return np.asarray(image.convert("RGB")), bits  # YCbCr, which libjpeg has turned into RGB


def sample_bits(image: TiffImagePlugin.TiffImageFile) -> tuple[int, ...]:
    """Reads how many bits each sample of a pixel has."""
    return _layout(image.tag_v2).bits


class Relabelled(io.BytesIO):
    """A file whose tags call its greys something that Pillow knows; ``meaning`` is what they are."""

    meaning: int


def relabelled(file: BinaryIO, name: str) -> Relabelled:
    """Copies a TIFF file that Pillow does not open so that it does.

    That is possible for bands of grey, which Pillow takes for colours, and for big-endian grey in which white is zero.

    Raises:
        PictureError: If there is no rule for its pixels, or no tags can be read.
    """
    file.seek(0)
    head = file.read(16)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head if 43 in head[2:4] else head[:8])
        file.seek(tags.next)
        tags.load(file)
        if _WIDTH not in tags or _PHOTOMETRIC not in tags:
            raise ValueError("width or photometric interpretation is missing")
        layout = _layout(tags)
        if isinstance(file, Relabelled) or not (layout.is_known and layout.is_grey):
            raise _refusal(layout, name)
        file.seek(0)
        data = bytearray(file.read())
        _rewrite_tags(data, _RGB if layout.samples > 2 else _BLACK_IS_ZERO, hides_extra=layout.samples > 2)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error) as e:
        raise PictureError(
            f"{name} is damaged or truncated: no TIFF tags can be read ({e}). Get a whole copy of it."
        ) from e
    copy = Relabelled(data)
    copy.meaning = layout.meaning
    return copy


def _rewrite_tags(data: bytearray, meaning: int, hides_extra: bool) -> None:
    """Changes what a file says of its samples, in place; what extra ones are can go under a tag nobody asks for."""
    order, is_big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    (start,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", data, start)
    first, size = (start + 8, 20) if is_big else (start + 2, 12)
    for place in range(first, first + count * size, size):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag == _PHOTOMETRIC:
            struct.pack_into(f"{order}{'H' if kind == _SHORT else 'I'}", data, place + (12 if is_big else 8), meaning)
        elif tag == _EXTRA_SAMPLES and hides_extra:
            struct.pack_into(f"{order}H", data, place, _DOT_RANGE)


def _layout(tags: TiffImagePlugin.ImageFileDirectory_v2) -> _Layout:
    def whole(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        return int(value[0] if isinstance(value, tuple) else value)

    def several(tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        value = tags.get(tag, default)
        return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)

    samples = whole(_SAMPLES, 1)
    bits = several(_BITS, (1,))
    return _Layout(
        whole(_PHOTOMETRIC, _WHITE_IS_ZERO),
        bits if len(bits) == samples else bits[:1] * max(1, samples),  # some writers give them once
        max(several(_SAMPLE_FORMAT, (_UNSIGNED,))),
        several(_EXTRA_SAMPLES, ()),
        whole(_PLANAR, 1) == _IN_PLANES and samples > 1,
        whole(_COMPRESSION, 1),
    )


def _refusal(layout: _Layout, name: str) -> PictureError:
    return PictureError(
        f"{name} is a TIFF of {layout.words}, for which there is no rule to read it as OpenCV does. "
        "Save it as grey or RGB of 8 bits."
    )


def _grey(image: TiffImagePlugin.TiffImageFile, layout: _Layout) -> NDArray[Any]:
    if layout.samples > 1:  # the first is taken; alpha is of no effect, also where grey has been multiplied by it
        values = np.asarray(image)
        first: NDArray[Any] = values if values.ndim == 2 else values[:, :, 0]
        return 255 - first if layout.meaning == _WHITE_IS_ZERO else first
    if layout.bits[0] < 16:
        return np.asarray(image.convert("L"))
    values = np.asarray(image)
    if layout.bits[0] > 16:
        return values
    if values.dtype.kind == "i" and values.min() < 0:
        return values
    high = (values.astype(np.uint16) >> 8).astype(np.uint8)
    return 255 - high if layout.meaning == _WHITE_IS_ZERO else high


def _color(image: TiffImagePlugin.TiffImageFile, file: BinaryIO, layout: _Layout) -> NDArray[np.uint8]:
    """RGB, multiplied by alpha where the file says that it has not been; any other fourth sample is dropped."""
    if layout.bits[0] == 8:
        _unpack_as(image, {"RGBa": "RGBA"})
        values = np.asarray(image)
    else:
        values = _rounded(image, file)
    color = values[:, :, :3]
    if layout.samples == 4 and layout.extra[:1] == (_UNASSOCIATED,):
        # 255 * 255 + 127 is within 16 bits.
        color = ((color.astype(np.uint16) * values[:, :, 3:] + 127) // 255).astype(np.uint8)
    return color


def _rounded(image: TiffImagePlugin.TiffImageFile, file: BinaryIO) -> NDArray[np.uint8]:
    """Colours of 16 bits as the nearest of 8.

    Pillow gives one byte of each sample: the high one, or the low one when told the other byte order.
    """
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    modes = ("RGB", "RGBX", "RGBA", "RGBa")
    _unpack_as(image, {f"RGBa;16{order}": f"RGBA;16{order}" for order in other})
    high = np.asarray(image)
    file.seek(0)
    with Image.open(file, formats=("TIFF",)) as again:
        assert isinstance(again, ImageFile.ImageFile)
        _unpack_as(again, {f"{m};16{order}": f"{m.upper()};16{other[order]}" for m in modes for order in other})
        low = np.asarray(again)
    result = np.empty_like(high)
    for channel in range(high.shape[2]):  # one at a time, for the memory of large pictures
        result[:, :, channel] = ((high[:, :, channel].astype(np.uint32) << 8 | low[:, :, channel]) + 128) // 257
    return result


def _from_palette(image: TiffImagePlugin.TiffImageFile) -> NDArray[np.uint8]:
    levels = np.array(image.tag_v2[_COLORMAP]).reshape(3, -1)  # before the file is closed
    if levels.max() > 255:  # some writers put levels of 8 bits there
        levels >>= 8
    picture: NDArray[np.uint8] = levels.T.astype(np.uint8)[np.asarray(image)]
    return picture


def _light(inks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    result = np.empty((*inks.shape[:2], 3), np.uint8)
    pieces, rest = inks.reshape(-1, 4), result.reshape(-1, 3)
    for start in range(0, len(pieces), _PIECE):  # one at a time, for the memory of large pictures
        light = 255 - pieces[start : start + _PIECE].astype(np.uint16)
        rest[start : start + _PIECE] = light[:, 3:] * light[:, :3] // 255
    return result


def _unpack_as(image: ImageFile.ImageFile, names: dict[str, str]) -> None:
    """Changes how Pillow is going to unpack the samples of an opened file."""

    def renamed(arguments: Any) -> Any:
        if isinstance(arguments, str):
            return names.get(arguments, arguments)
        return (names.get(arguments[0], arguments[0]), *arguments[1:])

    tiles = list[Any]()
    for tile in image.tile:
        arguments = renamed(tile[3])
        # Plain tuples in Pillow before 11.
        tiles.append(tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments))
    image.tile = tiles
