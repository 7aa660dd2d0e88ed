# SPDX-License-Identifier: Apache-2.0
"""Reads arrays and texts of a ZIP file; what each takes is known from directory and header before it is read."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_GROWTH = 20
"""What a file holds may be so many times the file. Few arrays of numbers shrink further; blanks do, a thousandfold."""
_LONGEST_HEADER = 10_000  # characters; numpy evaluates it as Python
# What reading a damaged archive or array may raise: NotImplementedError for a method of compression that there is not,
# RuntimeError for an encrypted entry.
_DAMAGE = (
    *(zipfile.BadZipFile, OSError, EOFError, KeyError, ValueError, TypeError, OverflowError, IndexError),
    *(NotImplementedError, RuntimeError, MemoryError, SyntaxError, AttributeError, struct.error, tokenize.TokenError),
    *(zlib.error, lzma.LZMAError),
)


class ArchiveError(ValueError):
    """An archive or something in it is damaged, encrypted, or larger than it may be; the message says which."""


class ArrayArchive:
    """An open archive of arrays; as a context manager it closes itself.

    Args:
        path: A ZIP file such as numpy's ``.npz``, without pickles.

    Raises:
        ArchiveError: If it is none, or would grow to more than :data:`MOST_GROWTH` times its size.
    """

    def __init__(self, path: Path) -> None:
        with _as_archive_error():
            self._file = zipfile.ZipFile(path)
            self._entries = {info.filename: info for info in self._file.infolist()}
            size, whole = path.stat().st_size, sum(info.file_size for info in self._entries.values())
            if whole > MOST_GROWTH * size:
                self._file.close()
                raise ArchiveError(f"its {size} bytes would grow to {whole}, more than {MOST_GROWTH} times as many")

    @property
    def names(self) -> list[str]:
        """Of all entries, without ``.npy``."""
        return [name.removesuffix(".npy") for name in self._entries]

    def content(self, name: str, limit: int) -> bytes:
        """Reads an entry whole.

        Raises:
            ArchiveError: If there is none of that name, it has more than ``limit`` bytes, or is damaged.
        """
        with _as_archive_error():
            info = self._entry(name)
            if info.file_size > limit:
                raise ArchiveError(f"{name} has {info.file_size} bytes, more than {limit}")
            return self._file.read(info)

    def array(self, name: str) -> NDArray[Any]:
        """Reads an array of numbers.

        Raises:
            ArchiveError: If there is none of that name, it is damaged, or has another size than its header says.
        """
        with _as_archive_error():
            info = self._entry(f"{name}.npy")
            with self._file.open(info) as entry:
                version = np.lib.format.read_magic(entry)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, is_fortran, dtype = header(entry, max_header_size=_LONGEST_HEADER)
                left = info.file_size - entry.tell()
                if dtype.kind not in "biuf" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
                    raise ArchiveError(f"{name} has {left} bytes, its header tells of {dtype} {shape}")
                values = np.frombuffer(entry.read(left), dtype)
            return values.reshape(shape, order="F" if is_fortran else "C").copy()  # which can be written to

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def __enter__(self) -> ArrayArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if name not in self._entries:
            raise ArchiveError(f"it holds no {name}")
        info = self._entries[name]
        if info.flag_bits & 1:
            raise ArchiveError(f"{name} is encrypted")
        return info


@contextmanager
def _as_archive_error() -> Iterator[None]:
    try:
        yield
    except ArchiveError:
        raise
    except _DAMAGE as e:
        raise ArchiveError(f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else 'without a word'}") from e
