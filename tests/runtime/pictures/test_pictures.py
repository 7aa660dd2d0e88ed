# SPDX-License-Identifier: Apache-2.0
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from freqfusion_runtime.errors import InputError, NoPicturesError, PictureError, PictureTooLargeError
from freqfusion_runtime.pictures.reading import find_pictures, read_picture
from PIL import Image
from written_pictures import write_bitmap, write_gif

PHOTO = Image.fromarray(
    (np.add.outer(np.arange(40) * 3, np.arange(60) * 2)[:, :, None] * np.array([1, 0.7, 0.4])).astype(np.uint8)
)
NOISE = np.random.default_rng(0)


def orientation(value):
    exif = Image.Exif()
    exif[0x112] = value
    return exif


def with_alpha():
    alpha = NOISE.integers(0, 256, (40, 60, 1), np.uint8)
    return Image.fromarray(np.concatenate([np.asarray(PHOTO), alpha], axis=2))


KINDS = {
    "rgb.png": lambda path: PHOTO.save(path),
    "rgb.jpg": lambda path: PHOTO.save(path, quality=90),
    "grey.png": lambda path: PHOTO.convert("L").save(path),
    "grey.jpg": lambda path: PHOTO.convert("L").save(path),
    "bits.png": lambda path: PHOTO.convert("1").save(path),
    "palette.png": lambda path: PHOTO.convert("P").save(path),
    "palette-transparent.png": lambda path: PHOTO.convert("P").save(path, transparency=3),
    "alpha.png": lambda path: with_alpha().save(path),
    "grey-alpha.png": lambda path: with_alpha().convert("LA").save(path),
    "alpha.webp": lambda path: with_alpha().save(path, lossless=True, exact=True),
    "cmyk.jpg": lambda path: PHOTO.convert("CMYK").save(path, quality=90),
    "sixteen-bit.png": lambda path: Image.fromarray(NOISE.integers(0, 65536, (40, 60), np.uint16)).save(path),
    "sixteen-bit.tif": lambda path: Image.fromarray(NOISE.integers(0, 65536, (40, 60), np.uint16)).save(path),
    "one-pixel.png": lambda path: PHOTO.crop((5, 5, 6, 6)).save(path),
    "frames.gif": lambda path: PHOTO.save(path),
    "plain.bmp": lambda path: PHOTO.save(path),
    **{f"turned-{n}.jpg": lambda path, n=n: PHOTO.save(path, exif=orientation(n)) for n in range(1, 9)},
}


@pytest.mark.parametrize("name", KINDS)
def test_reads_as_opencv_does(tmp_path, name):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / name
    KINDS[name](path)
    ours = read_picture(path)
    assert (ours.dtype, ours.flags["C_CONTIGUOUS"]) == (np.uint8, True)
    np.testing.assert_array_equal(ours, cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])


PALETTES = [NOISE.integers(0, 256, 768, np.uint8).tobytes() for _ in range(2)]
GREYS = bytes(level for index in range(256) for level in [index] * 3)
FRAME = NOISE.integers(0, 6, (7, 9), np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {"palette": PALETTES[0], "transparent": 4},
        {"palette": PALETTES[0], "transparent": 4, "background": 3},
        {"palette": PALETTES[0], "transparent": 4, "background": 4},
        {"palette": GREYS, "transparent": 4, "background": 200},
        {"palette": PALETTES[0], "background": 3, "screen": (12, 13), "at": (3, 2)},
        {"palette": PALETTES[0], "own_palette": PALETTES[1], "transparent": 4, "screen": (12, 13), "at": (3, 2)},
        {"own_palette": PALETTES[1], "transparent": 4, "background": 3},
        {"own_palette": PALETTES[1], "transparent": 4, "screen": (12, 13), "at": (5, 4)},
    ],
)
def test_the_background_of_a_gif_shows_where_opencv_shows_it(tmp_path, options):
    cv2 = pytest.importorskip("cv2")
    path = write_gif(tmp_path / "a.gif", FRAME, **{"screen": FRAME.shape, **options})
    np.testing.assert_array_equal(read_picture(path), cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])


@pytest.mark.parametrize("masks", [(), (0xF800, 0x7E0, 0x1F)], ids=["555", "565"])
def test_bitmaps_of_few_levels_are_read_as_opencv_does(tmp_path, masks):
    cv2 = pytest.importorskip("cv2")
    path = write_bitmap(tmp_path / "a.bmp", NOISE.integers(0, 65536, (9, 16), np.uint16), masks)
    np.testing.assert_array_equal(read_picture(path), cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])


@pytest.mark.filterwarnings("ignore:.*has 16-bit values")
@pytest.mark.parametrize("most", [100, 255, 1000, 32767, 65535])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_portable_maps_are_not_scaled_by_their_maximum(tmp_path, kind, most):
    cv2 = pytest.importorskip("cv2")
    values = NOISE.integers(0, most + 1, (5, 7, 3 if kind == "P6" else 1))
    path = tmp_path / "a.pnm"
    data = values.astype(np.uint8 if most < 256 else ">u2").tobytes()
    path.write_bytes(f"{kind}\n# a comment\n7 5\n{most}\n".encode() + data)
    ours = read_picture(path)
    np.testing.assert_array_equal(ours, cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])
    np.testing.assert_array_equal(ours, np.broadcast_to(values >> (0 if most < 256 else 8), (5, 7, 3)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        PictureError, match=r"a\.pnm is damaged or truncated: \d+ bytes of pixels where \d+ are expected"
    ):
        read_picture(path)


@pytest.mark.parametrize("values", [np.full((4, 5), 1023, np.uint16), np.full((4, 5, 3), 4095, np.uint16)])
def test_few_of_16_bits_are_told_to_be_black(tmp_path, values):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), values)
    with pytest.warns(UserWarning, match=r"a\.png has 16-bit values, of which OpenCV takes the highest 8, .*Scale its"):
        picture = read_picture(tmp_path / "a.png")
    assert picture.max() == values.max() >> 8


@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"subsampling": 2}])
def test_a_jpeg_that_lacks_its_end_marker_only_is_read(tmp_path, kind):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "a.jpg"
    PHOTO.save(path, quality=90, **kind)
    whole, content = read_picture(path), path.read_bytes()
    for missing in (1, 2):
        path.write_bytes(content[:-missing])
        np.testing.assert_array_equal(read_picture(path), whole)
        np.testing.assert_array_equal(read_picture(path), cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1])
    path.write_bytes(content[:-8])
    with pytest.raises(PictureError, match=r"a\.jpg is damaged or truncated"):
        read_picture(path)


def test_a_jpeg_that_lacks_a_restart_interval_is_not_taken_for_whole(tmp_path):
    path = tmp_path / "a.jpg"
    PHOTO.save(path, quality=90, restart_marker_rows=1)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\xff\xd3") if b"\xff\xd3" in content else content.rindex(b"\xff\xd1")])
    with pytest.raises(PictureError, match=r"a\.jpg is damaged or truncated"):
        read_picture(path)


def test_sixteen_bit_colour_keeps_the_high_byte(tmp_path):
    cv2 = pytest.importorskip("cv2")
    values = NOISE.integers(0, 65536, (7, 9, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), (values >> 8).astype(np.uint8)[:, :, ::-1])


def test_a_turned_picture_stands_upright(tmp_path):
    PHOTO.save(tmp_path / "a.png", exif=orientation(6))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.rot90(np.asarray(PHOTO), -1))


def test_arrays_and_pillow_images_pass():
    np.testing.assert_array_equal(read_picture(np.asarray(PHOTO)), np.asarray(PHOTO))
    np.testing.assert_array_equal(read_picture(PHOTO), np.asarray(PHOTO))


def png_of_size(width, height):
    """A valid PNG header that promises a huge picture, and hardly any data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_with_the_limit_named(tmp_path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_of_size(30_000, 30_000))
    with pytest.raises(PictureError, match=r"bomb\.png is larger than the limit of 64\.0 megapixels: .*900000000"):
        read_picture(bomb)


def test_a_limit_beyond_pillows_own_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # which it doubles
    for name in ("a.png", "a.tif"):
        PHOTO.save(tmp_path / name)
        with pytest.raises(PictureError, match=r"is larger than the limit of 0\.0 megapixels"):
            read_picture(tmp_path / name, max_pixels=900)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_picture(tmp_path / name, max_pixels=2400), np.asarray(PHOTO))


def test_a_picture_just_over_the_limit_is_refused_undecoded(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png_of_size(10_000, 10_000))
    message = r"large\.png is 10000 x 10000 = 100\.0 megapixels, more than the limit of 64\.0\. .*--max-pixels"
    with pytest.raises(PictureTooLargeError, match=message):
        read_picture(path)
    with pytest.raises(PictureTooLargeError, match=r"more than the limit of 0\.0"):
        read_picture(np.asarray(PHOTO), max_pixels=2399)
    assert read_picture(np.asarray(PHOTO), max_pixels=2400).shape == (40, 60, 3)


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "plain.bmp", "alpha.webp", "sixteen-bit.tif"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path, name, part):
    path = tmp_path / name
    if name == "rgb.png":  # noise, so that its data is more than one block
        Image.fromarray(NOISE.integers(0, 256, (90, 90, 3), np.uint8)).save(path)
    else:
        KINDS[name](path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(PictureError, match=rf"{name} is (damaged or truncated|not a picture)"):
        read_picture(path)


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"a\.jpg is not a picture in one of the formats JPEG, .*Convert it"):
        read_picture(path)


def test_floating_point_and_wide_integers_are_refused(tmp_path):
    Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(PictureError, match=r"f\.tif holds floating-point values"):
        read_picture(tmp_path / "f.tif")
    Image.fromarray(np.full((3, 4), 70_000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(PictureError, match=r"i\.tif holds values from 70000 to 70000, beyond 16 bits"):
        read_picture(tmp_path / "i.tif")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"must be uint8 of shape \(height, width, 3\) in RGB order, got uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), r"got float32 \(4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"at least one pixel, got shape \(0, 4, 3\)"),
    ],
)
def test_says_what_array_it_wanted(array, message):
    with pytest.raises(InputError, match=message):
        read_picture(array)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(PictureError, match=r"gone\.jpg does not exist"):
        read_picture(tmp_path / "gone.jpg")
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path)
    with pytest.raises(PictureError, match=r"gone does not exist"):
        find_pictures([tmp_path / "gone"])
    with pytest.raises(NoPicturesError, match=r"no picture found in .*folders that hold files ending in \.jpg"):
        find_pictures([tmp_path])


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PictureError, match=r"a\.png cannot be read: permission denied\. Check its rights"):
        read_picture(tmp_path / "a.png")


def test_every_usual_suffix_is_taken_and_files_without_one_by_their_content(tmp_path):
    for name in ("a.jfif", "b.jpe", "c.JPG", "d.jpeg"):
        PHOTO.save(tmp_path / name, format="JPEG")
    PHOTO.save(tmp_path / "e.mpo", format="MPO", save_all=True, append_images=[PHOTO])
    PHOTO.convert("L").save(tmp_path / "f.pgm")
    PHOTO.save(tmp_path / "g", format="WEBP")
    for name, content in (("README", b"no picture"), ("empty", b""), ("h.txt", b"text")):
        (tmp_path / name).write_bytes(content)
    found = find_pictures([tmp_path])
    assert [path.name for path in found] == ["a.jfif", "b.jpe", "c.JPG", "d.jpeg", "e.mpo", "f.pgm", "g"]
    for path in found:
        assert read_picture(path).shape == (40, 60, 3)


def test_pictures_that_are_left_out_are_named(tmp_path):
    for name in ("a.png", "b.heic", "notes.txt", *(f"{n}.AVIF" for n in range(6))):
        (tmp_path / name).touch()
    message = r": left out for want of a reader: 7 pictures, 0\.AVIF, .*, 4\.AVIF and 2 more\. Convert to JPEG or PNG"
    with pytest.warns(UserWarning, match=message):
        assert [path.name for path in find_pictures([tmp_path])] == ["a.png"]


def test_folders_give_their_pictures_in_order_and_each_once(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "c.png").mkdir()
    found = find_pictures([tmp_path / "notes.txt", tmp_path, tmp_path / "a.png"])
    assert [path.name for path in found] == ["notes.txt", "a.png", "b.JPG"]
