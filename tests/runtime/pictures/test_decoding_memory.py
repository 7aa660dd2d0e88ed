# SPDX-License-Identifier: Apache-2.0
"""What decoding a picture takes is known from its header, whatever its mode."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from memory_growth import LINUX, SLACK, growth
from PIL import Image
from written_pictures import write_tiff

HEIGHT, WIDTH = 840, 1020
PIXELS = HEIGHT * WIDTH
TURNED = Image.Exif()
TURNED[0x0112] = 6

DECODE = """
import io, warnings
from PIL import Image
from freqfusion_runtime.pictures.reading import read_picture_bytes

warnings.simplefilter("ignore")
small = []
for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM"):
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, kind)
    small.append(stream.getvalue())

def warm_up():
    for data in small:
        read_picture_bytes(data)

def work(data):
    told = []
    picture = read_picture_bytes(data, before_decoding=told.append)
    assert picture.shape[2] == 3
    return told[0]
"""


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    small = np.random.default_rng(0).integers(0, 256, (70, 85, 4), np.uint8)
    rgba = Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    cmyk, palette = rgb.convert("CMYK"), rgb.quantize(64)
    deep = np.asarray(rgba).astype(np.uint16) * 257
    deep_grey = Image.fromarray(deep[:, :, 0])
    found = {
        "jpeg": saved(rgb, "JPEG"),
        "jpeg-progressive": saved(rgb, "JPEG", progressive=True, subsampling=0),
        "jpeg-turned": saved(rgb, "JPEG", exif=TURNED),
        "jpeg-grey": saved(grey, "JPEG"),
        "jpeg-cmyk": saved(cmyk, "JPEG", progressive=True, subsampling=0),
        "jpeg-cmyk-turned": saved(cmyk, "JPEG", exif=TURNED),
        "png": saved(rgb, "PNG", compress_level=1),
        "png-turned": saved(rgba, "PNG", compress_level=1, exif=TURNED),
        "png-grey-alpha": saved(rgba.convert("LA"), "PNG", compress_level=1),
        "png-palette": saved(palette, "PNG", compress_level=1),
        "png-bits": saved(grey.convert("1"), "PNG", compress_level=1),
        "png-16": saved(deep_grey, "PNG", compress_level=1),
        "webp": saved(rgb, "WEBP", quality=10, method=0),
        "webp-alpha": saved(rgba, "WEBP", quality=10, method=0),
        "bmp": saved(rgb, "BMP"),
        "gif": saved(palette, "GIF"),
        "ppm": saved(rgb, "PPM"),
        "pgm-16": b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + deep[:, :, 0].astype(">u2").tobytes(),
        "ppm-plain": b"P2\n%d %d\n255\n" % (WIDTH, HEIGHT) + b"7 " * PIXELS,
        "tiff": saved(rgb, "TIFF"),
        "tiff-lzw": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff-cmyk": saved(cmyk, "TIFF"),
        "tiff-palette": saved(palette, "TIFF"),
        "tiff-16": saved(deep_grey, "TIFF"),
        "tiff-jpeg": saved(rgb, "TIFF", compression="jpeg"),
    }
    path = folder / "picture.tif"
    for name, samples, options in (
        ("tiff-alpha", np.asarray(rgba), {"extra": (2,)}),
        ("tiff-color-16", deep[:, :, :3], {}),
        ("tiff-alpha-16", deep, {"extra": (2,)}),
        ("tiff-color-16-turned", deep[:, :, :3], {"orientation": 6}),
    ):
        found[name] = write_tiff(path, samples, 2, **options).read_bytes()
    return found


@pytest.mark.skipif(not LINUX, reason="only Linux tells a peak that is gone")
def test_decoding_takes_no_more_than_is_told_beforehand(tmp_path):
    taken = growth(DECODE, files(tmp_path))
    each = {name: (size / PIXELS, told / PIXELS) for name, (size, told) in taken.items()}
    assert {name: pair for name, pair in each.items() if pair[0] > pair[1] + SLACK / PIXELS} == {}
    # Nor many times less: a photo that would fit must not be refused.
    assert {name: pair for name, pair in each.items() if pair[1] > 2 * pair[0]}.keys() <= SMALLER_THAN_TOLD


# Kinds that a server rarely gets, told as others of their format.
SMALLER_THAN_TOLD = {"ppm", "pgm-16", "tiff-palette"}


def test_inks_become_colours_piece_by_piece_as_all_at_once():
    inks = np.random.default_rng(1).integers(0, 256, (601, 503, 4), np.uint8)  # more than one piece
    light = 255 - inks.astype(np.int32)[:, :, 3:]
    expected = (light - ((inks[:, :, :3].astype(np.int32) * light) >> 8)).astype(np.uint8)
    from freqfusion_runtime.pictures.decoding import by_mode

    np.testing.assert_array_equal(by_mode(Image.fromarray(inks, "CMYK"), "it"), expected)
