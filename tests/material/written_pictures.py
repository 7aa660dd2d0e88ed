# SPDX-License-Identifier: Apache-2.0
"""Picture files of kinds that Pillow and OpenCV do not write, byte by byte from their specifications."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_tiff(
    path: Path,
    samples: np.ndarray,
    meaning: int,
    *,
    bits: int | None = None,
    extra: Sequence[int] = (),
    planes: bool = False,
    orientation: int = 1,
    order: str = "<",
    sample_format: int = 1,
    colormap: Sequence[int] = (),
    deflate: bool = False,
) -> Path:
    """Writes a TIFF file of strips of five rows.

    Args:
        path: Where.
        samples: ``(H, W)`` or ``(H, W, C)``.
        meaning: PhotometricInterpretation.
        bits: Of a sample, where fewer than its dtype has: 1, 2, 4 or 12.
        extra: ExtraSamples.
        planes: Whether each sample has strips of its own.
        orientation: Orientation.
        order: ``<`` or ``>``.
        sample_format: SampleFormat.
        colormap: ColorMap, all red, then all green, then all blue.
        deflate: Whether to compress.
    """
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, count = samples.shape
    bits = bits or samples.itemsize * 8

    def packed(rows: np.ndarray) -> bytes:
        if bits >= 8 and bits != 12:
            return rows.astype(rows.dtype.newbyteorder(order)).tobytes()
        digits = ("".join(f"{value:0{bits}b}" for value in row.ravel().tolist()) for row in rows)
        padded = "".join(line + "0" * (-len(line) % 8) for line in digits)
        return int(padded, 2).to_bytes(len(padded) // 8, "big")

    layers = [samples[:, :, index : index + 1] for index in range(count)] if planes else [samples]
    strips = [packed(layer[row : row + 5]) for layer in layers for row in range(0, height, 5)]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * count),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [meaning]),
        274: ("H", [orientation]),
        277: ("H", [count]),
        278: ("I", [5]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [2 if planes else 1]),
        339: ("H", [sample_format] * count),
    }
    if extra:
        tags[338] = ("H", list(extra))
    if len(colormap):
        tags[320] = ("H", list(colormap))

    def head(offsets: list[int]) -> bytes:
        tags[273] = ("I", offsets)
        entries, values = b"", b""
        start = 8 + 2 + 12 * len(tags) + 4
        for tag, (code, numbers) in sorted(tags.items()):
            data = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
            if len(data) > 4:
                data, values = struct.pack(f"{order}I", start + len(values)), values + data
            entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[code], len(numbers)) + data.ljust(4, b"\0")
        mark = b"II" if order == "<" else b"MM"
        return mark + struct.pack(f"{order}HIH", 42, 8, len(tags)) + entries + b"\0" * 4 + values

    size = len(head([0] * len(strips)))
    path.write_bytes(head([size + sum(map(len, strips[:index])) for index in range(len(strips))]) + b"".join(strips))
    return path


def write_gif(
    path: Path,
    indices: np.ndarray,
    screen: tuple[int, int],
    at: tuple[int, int] = (0, 0),
    palette: bytes = b"",
    own_palette: bytes = b"",
    background: int = 0,
    transparent: int | None = None,
) -> Path:
    """Writes a GIF file of one frame.

    Args:
        path: Where.
        indices: ``(H, W)``, uint8: the frame.
        screen: Height and width of the whole.
        at: Row and column of the frame in it.
        palette: Of the file, 768 bytes or none.
        own_palette: Of the frame, likewise.
        background: Index into ``palette``.
        transparent: Index of the transparent colour.
    """
    flags = 0x70 | (0x87 if palette else 0)
    head = b"GIF89a" + struct.pack("<HHBBB", screen[1], screen[0], flags, background, 0) + palette
    control = b"!\xf9\x04" + bytes([transparent is not None, 0, 0, transparent or 0, 0])
    height, width = indices.shape
    frame = b"," + struct.pack("<HHHHB", at[1], at[0], width, height, 0x87 if own_palette else 0) + own_palette
    codes = [code for k, index in enumerate(indices.ravel().tolist()) for code in ([256] * (k % 100 == 0) + [index])]
    # Codes of nine bits, the lowest first; clearing the table every hundred keeps them so.
    stream = sum(code << 9 * place for place, code in enumerate([*codes, 257]))
    data = stream.to_bytes(-(-9 * (len(codes) + 1) // 8), "little")
    blocks = b"".join(bytes([len(data[k : k + 255])]) + data[k : k + 255] for k in range(0, len(data), 255))
    path.write_bytes(head + control + frame + b"\x08" + blocks + b"\0;")
    return path


def write_bitmap(path: Path, pixels: np.ndarray, masks: Sequence[int] = ()) -> Path:
    """Writes a BMP file of 16 bits a pixel, ``(H, W)`` uint16; without masks five bits are for each colour."""
    data = pixels[::-1].astype("<u2").tobytes()
    table = struct.pack(f"<{len(masks)}I", *masks)
    height, width = pixels.shape
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 16, 3 if masks else 0, len(data), 0, 0, 0, 0)
    start = 14 + len(header) + len(table)
    path.write_bytes(b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + table + data)
    return path
