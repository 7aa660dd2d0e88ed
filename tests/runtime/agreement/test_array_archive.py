# SPDX-License-Identifier: Apache-2.0
"""What an archive takes is known before it is read, and what is damaged ends in a sentence."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from freqfusion_runtime.agreement.array_archive import ArchiveError, ArrayArchive
from growth import assert_linear, peak_bytes


def write(path, compression=zipfile.ZIP_STORED, **entries):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def npy(array, shape=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    data = stream.getvalue()
    return data if shape is None else data.replace(repr(array.shape).encode(), repr(shape).encode())


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.zeros((0, 3)), np.float16(3.0),
     np.array([True, False]), np.arange(3, dtype=">i4")],
)  # fmt: skip
def test_arrays_come_back_as_numpy_reads_them(tmp_path, array):
    np.savez(tmp_path / "a.npz", x=array)
    with ArrayArchive(tmp_path / "a.npz") as archive, np.load(tmp_path / "a.npz") as expected:
        found = archive.array("x")
        assert archive.names == ["x"]
        assert found.dtype == expected["x"].dtype
        np.testing.assert_array_equal(found, expected["x"])
        found[...] = 0  # it can be written to


def test_blanks_that_were_packed_are_not_spread_out(tmp_path):
    path = write(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, facts__json=b" " * (20 << 20))
    assert path.stat().st_size < 30_000

    def refuse():
        with pytest.raises(ArchiveError, match=r"its \d+ bytes would grow to 20971520, more than 20 times as many"):
            ArrayArchive(path)

    assert peak_bytes(refuse) < 1_000_000


def test_an_entry_has_a_limit(tmp_path):
    path = write(tmp_path / "a.npz", facts__json=b" " * 1000)
    with ArrayArchive(path) as archive:
        assert len(archive.content("facts.json", 1000)) == 1000
        with pytest.raises(ArchiveError, match=r"facts\.json has 1000 bytes, more than 999"):
            archive.content("facts.json", 999)
        with pytest.raises(ArchiveError, match=r"it holds no other\.json"):
            archive.content("other.json", 999)


@pytest.mark.parametrize("shape", [(10**12,), (2, 3), (-1,), (2**62, 4)])
def test_a_header_that_tells_of_another_size_reserves_nothing(tmp_path, shape):
    path = write(tmp_path / "a.npz", x__npy=npy(np.zeros(7), shape))

    def refuse():
        with (
            ArrayArchive(path) as archive,
            pytest.raises(ArchiveError, match=r"x has \d+ bytes, its header tells of"),
        ):
            archive.array("x")

    assert peak_bytes(refuse) < 1_000_000


def test_pickles_are_no_arrays(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([{}]), allow_pickle=True)
    with ArrayArchive(write(tmp_path / "a.npz", x__npy=stream.getvalue())) as archive, pytest.raises(ArchiveError):
        archive.array("x")


def test_an_encrypted_entry_is_named(tmp_path):
    path = write(tmp_path / "a.npz", x__npy=npy(np.zeros(3)))
    data = bytearray(path.read_bytes())
    for start, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag in both headers
        data[data.index(start) + place] |= 1
    path.write_bytes(data)
    with ArrayArchive(path) as archive, pytest.raises(ArchiveError, match=r"x\.npy is encrypted"):
        archive.array("x")


def test_a_way_of_packing_that_there_is_not_is_said(tmp_path):
    path = write(tmp_path / "a.npz", x__npy=npy(np.zeros(3)))
    data = bytearray(path.read_bytes())
    for start, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # the method in both headers
        data[data.index(start) + place] = 99
    path.write_bytes(data)
    with ArrayArchive(path) as archive, pytest.raises(ArchiveError, match="NotImplementedError: "):
        archive.array("x")


def test_what_is_no_archive_is_said(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(ArchiveError, match="BadZipFile: File is not a zip file"):
        ArrayArchive(tmp_path / "a.npz")


def test_reading_grows_with_the_file_and_no_faster(tmp_path):
    def make(count):
        path = tmp_path / f"{count}.npz"
        np.savez(path, **{f"a{number}": np.zeros(9) for number in range(count)})
        return path

    def work(path):
        with ArrayArchive(path) as archive:
            return [archive.array(name) for name in archive.names]

    assert_linear(work, make, 60)
