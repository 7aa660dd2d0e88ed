# SPDX-License-Identifier: Apache-2.0
"""TIFF of every layout that is read, against OpenCV; and the others, each refused by name."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from freqfusion_runtime.errors import PictureError
from freqfusion_runtime.pictures.reading import read_picture
from PIL import Image
from written_pictures import write_tiff

cv2 = pytest.importorskip("cv2")

WHITE, BLACK, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
NOISE = np.random.default_rng(0)
BYTES = NOISE.integers(0, 256, (23, 37, 5), np.uint8)
WORDS = NOISE.integers(0, 65536, (23, 37, 5), np.uint16)
GREY, GREY_16 = BYTES[:, :, 0], WORDS[:, :, 0]
LEVELS_16 = NOISE.integers(0, 65536, 768).tolist()
LEVELS_8 = NOISE.integers(0, 256, 768).tolist()

KNOWN = {
    "one bit, white is zero": ((GREY >> 7, WHITE), {"bits": 1}),
    "one bit": ((GREY >> 7, BLACK), {"bits": 1}),
    "grey": ((GREY, BLACK), {}),
    "grey, white is zero": ((GREY, WHITE), {}),
    "grey of 16 bits": ((GREY_16, BLACK), {}),
    "grey of 16 bits, big-endian": ((GREY_16, BLACK), {"order": ">"}),
    "grey of 16 bits, white is zero": ((GREY_16, WHITE), {}),
    "grey of 16 bits, white is zero, big-endian": ((GREY_16, WHITE), {"order": ">"}),
    "grey of 16 bits, white is zero, compressed": ((GREY_16, WHITE), {"deflate": True}),
    "positive numbers of 16 bits": ((GREY_16 >> 1, BLACK), {"sample_format": 2}),
    **{f"grey and extra sample {kind}": ((BYTES[:, :, :2], BLACK), {"extra": [kind]}) for kind in range(3)},
    **{f"grey, white is zero, sample {kind}": ((BYTES[:, :, :2], WHITE), {"extra": [kind]}) for kind in (0, 2)},
    "three greys that nobody explains": ((BYTES[:, :, :3], BLACK), {}),
    **{f"three greys, extra sample {kind}": ((BYTES[:, :, :3], BLACK), {"extra": [kind, 0]}) for kind in range(3)},
    "three greys, white is zero, big-endian": ((BYTES[:, :, :3], WHITE), {"extra": [0, 0], "order": ">"}),
    "three greys of 16 bits": ((WORDS[:, :, :3], BLACK), {"extra": [0, 0]}),
    "three greys of 16 bits, compressed": ((WORDS[:, :, :3], WHITE), {"extra": [0, 0], "deflate": True, "order": ">"}),
    "four greys": ((BYTES[:, :, :4], BLACK), {"extra": [0, 0, 0], "deflate": True}),
    "four greys of 16 bits": ((WORDS[:, :, :4], WHITE), {"extra": [2, 0, 0]}),
    "three greys in planes": ((BYTES[:, :, :3], BLACK), {"planes": True, "extra": [0, 0]}),
    "RGB": ((BYTES[:, :, :3], RGB), {}),
    "RGB in planes": ((BYTES[:, :, :3], RGB), {"planes": True}),
    "RGB of 16 bits": ((WORDS[:, :, :3], RGB), {}),
    "RGB of 16 bits, big-endian": ((WORDS[:, :, :3], RGB), {"order": ">"}),
    "RGB of 16 bits, compressed": ((WORDS[:, :, :3], RGB), {"deflate": True, "order": ">"}),
    **{f"RGB and extra sample {kind}": ((BYTES[:, :, :4], RGB), {"extra": [kind]}) for kind in range(3)},
    "RGB and a sample nobody explains": ((BYTES[:, :, :4], RGB), {}),
    **{f"RGB of 16 bits and extra sample {kind}": ((WORDS[:, :, :4], RGB), {"extra": [kind]}) for kind in range(3)},
    "RGB of 16 bits and alpha, compressed": ((WORDS[:, :, :4], RGB), {"extra": [2], "deflate": True}),
    "palette": ((GREY, PALETTE), {"colormap": LEVELS_16}),
    "palette with levels of 8 bits": ((GREY, PALETTE), {"colormap": LEVELS_8}),
    "palette of 16 colours": ((GREY >> 4, PALETTE), {"bits": 4, "colormap": LEVELS_16[:48]}),
    "palette of two colours": ((GREY >> 7, PALETTE), {"bits": 1, "colormap": LEVELS_16[:6]}),
    "CMYK": ((BYTES[:, :, :4], CMYK), {}),
    "CMYK in planes": ((BYTES[:, :, :4], CMYK), {"planes": True}),
    **{f"turned {n}": ((BYTES[:, :, :3], RGB), {"orientation": n}) for n in (2, 3, 4)},
    **{f"grey turned {n}": ((GREY, BLACK), {"orientation": n}) for n in (2, 3, 4)},
}


@pytest.mark.parametrize("kind", KNOWN)
def test_reads_as_opencv_does(tmp_path, kind):
    (samples, meaning), options = KNOWN[kind]
    path = write_tiff(tmp_path / "a.tif", samples, meaning, **options)
    np.testing.assert_array_equal(read_picture(path), cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_compressed_files_are_read_as_opencv_does(tmp_path, compression, mode):
    path = tmp_path / "a.tif"
    Image.fromarray(BYTES[:, :, :3]).convert(mode).save(path, compression=compression)
    np.testing.assert_array_equal(read_picture(path), cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])


@pytest.mark.parametrize("samples", [BYTES[:, :, :3], GREY], ids=["RGB", "grey"])
def test_quarter_turns_are_done_which_opencv_refuses(tmp_path, samples):
    color = np.repeat(samples[:, :, None], 3, axis=2) if samples.ndim == 2 else samples
    meaning = RGB if samples.ndim == 3 else BLACK
    assert cv2.imread(str(write_tiff(tmp_path / "a.tif", samples, meaning, orientation=6))) is None
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif"), np.rot90(color, -1))
    write_tiff(tmp_path / "b.tif", samples, meaning, orientation=5)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.tif"), color.transpose(1, 0, 2))


@pytest.mark.parametrize("bits", [2, 4])
def test_few_greys_are_spread_over_all_levels_which_opencv_refuses(tmp_path, bits):
    path = write_tiff(tmp_path / "a.tif", GREY >> (8 - bits), WHITE, bits=bits)
    assert cv2.imread(str(path)) is None
    expected = 255 - (GREY >> (8 - bits)) * (255 // (2**bits - 1))
    np.testing.assert_array_equal(read_picture(path)[:, :, 0], expected)


@pytest.mark.parametrize(
    ("samples", "meaning", "options", "words"),
    [
        (BYTES, BLACK, {"extra": [0] * 4}, r"5 samples of 8 bits \(grey, black is zero, compression 1\)"),
        (
            BYTES[:, :, :3],
            WHITE,
            {"planes": True, "extra": [0] * 2},
            r"3 samples of 8 bits \(grey, white is zero, ",
        ),
        (
            BYTES[:, :, :3],
            BLACK,
            {"planes": True, "extra": [2, 0]},
            r"3 samples of 8 bits \(grey, black is zero, ",
        ),
        (WORDS[:, :, :3], BLACK, {"planes": True}, r"3 samples of 16 bits \(grey, black is zero, in planes"),
        (WORDS[:, :, :2], BLACK, {"extra": [0]}, r"2 samples of 16 bits \(grey, black is zero"),
        (BYTES, RGB, {"extra": [0] * 2}, r"5 samples of 8 bits \(RGB"),
        (WORDS[:, :, :3], RGB, {"planes": True}, r"3 samples of 16 bits \(RGB, in planes"),
        (BYTES[:, :, :4], RGB, {"planes": True, "extra": [2]}, r"4 samples of 8 bits \(RGB, in planes"),
        (WORDS[:, :, :3], RGB, {"sample_format": 2}, r"3 samples of 16 bits \(signed RGB"),
        (BYTES[:, :, :3].astype(np.float32), RGB, {"sample_format": 3}, r"3 samples of 32 bits \(floating-point RGB"),
        (GREY_16 >> 4, BLACK, {"bits": 12}, r"1 sample of 12 bits \(grey"),
        (WORDS[:, :, :4], CMYK, {}, r"4 samples of 16 bits \(CMYK"),
        (BYTES[:, :, :3], LAB, {}, r"3 samples of 8 bits \(CIE Lab"),
        (BYTES[:, :, :3], YCBCR, {}, r"3 samples of 8 bits \(YCbCr"),
        (GREY, 32803, {}, r"1 sample of 8 bits \(colour filter array"),
    ],
)
def test_layouts_without_a_rule_are_refused_by_name(tmp_path, samples, meaning, options, words):
    path = write_tiff(tmp_path / "a.tif", samples, meaning, **options)
    with pytest.raises(PictureError, match=rf"a\.tif is a TIFF of {words}.*Save it as grey or RGB of 8 bits"):
        read_picture(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_file_that_only_begins_like_tiff_is_damaged(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0" + b"\xff" * 40)
    with pytest.raises(PictureError, match=r"a\.tif is damaged or truncated"):
        read_picture(tmp_path / "a.tif")


def test_values_of_10_bits_are_told_to_be_black(tmp_path):
    path = write_tiff(tmp_path / "a.tif", GREY_16 >> 6, BLACK)
    with pytest.warns(UserWarning, match=r"a\.tif has 16-bit values, .* at most 3 of 255: .*Scale its values up to"):
        picture = read_picture(path)
    np.testing.assert_array_equal(picture, cv2.imread(str(path), cv2.IMREAD_COLOR))


def test_offsets_that_are_no_whole_numbers_are_damage(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    kind = data.index(struct.pack("<H", 273)) + 2  # StripOffsets
    struct.pack_into("<H", data, kind, 5)  # a fraction, which the entry's own place then names
    path.write_bytes(data)
    with pytest.raises(PictureError, match=r"x\.tif is damaged or truncated"):
        read_picture(path)
