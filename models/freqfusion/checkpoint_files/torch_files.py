# SPDX-License-Identifier: Apache-2.0
"""The two kinds of files that ``torch.save`` writes: zip archives, and before PyTorch 1.6 pickles followed by storages.

``torch.load`` is not asked: it passes a TorchScript archive to ``torch.jit.load``, which runs code, and knows no
placeholders.
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from freqfusion.checkpoint_files.placeholders import Inert
from freqfusion.checkpoint_files.plain_data import Storage, StorageType
from freqfusion.checkpoint_files.unpickling import unpickle
from freqfusion.errors import CheckpointError

# The number in the first pickle of an old file, as protocols 2 to 5 and as protocols 0 and 1 write it.
_LEGACY_MAGIC = (b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"L119547037146038801333356L\n.")
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_MOST_GROWTH = 100  # compressed records may be so many times the whole file


def read_zip(path: Path) -> Any:
    """Reads a zip archive; tensors are views of the file, mapped privately, so that only what is used is ever read.

    Raises:
        CheckpointError: If it is a TorchScript archive, or no archive of ``torch.save``.
        Exception: Any, if it is damaged.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = {info.filename: info for info in archive.infolist()}
        top = next(iter(records), "").partition("/")[0]
        if any(name.endswith("/constants.pkl") or name.startswith(f"{top}/code/") for name in records):
            raise CheckpointError(
                "it is a TorchScript archive, and reading one runs code that is in it. Nothing was run. Save its "
                "weights alone where you trust it: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        if f"{top}/data.pkl" not in records:
            raise CheckpointError(
                "it is a zip archive, but not one of torch.save, which would hold a data.pkl; it holds "
                f"{', '.join(sorted(records)[:3])}"
            )
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        packed = [info for info in records.values() if info.compress_type != zipfile.ZIP_STORED]  # by somebody else
        growth = sum(info.file_size for info in packed)
        if growth > _MOST_GROWTH * len(mapped):
            largest = max(packed, key=lambda info: info.file_size).filename
            what = f"record {largest}" if len(packed) == 1 else f"{len(packed)} records, {largest} the largest,"
            raise CheckpointError(
                f"its {what} would grow to {growth} bytes, more than {_MOST_GROWTH} times the file's {len(mapped)}; "
                "save it without compression"
            )

        def record(name: str) -> tuple[Any, int, int]:
            """Finds a record: what holds it, where it begins there, and its size."""
            info = records[f"{top}/{name}"]
            if info.flag_bits & 1:
                raise CheckpointError(f"its record {info.filename} is encrypted; save it without a password")
            if info.compress_type != zipfile.ZIP_STORED:
                return bytearray(archive.read(info)), 0, info.file_size
            signature, *lengths = _LOCAL_HEADER.unpack_from(mapped, info.header_offset)
            start = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
            if signature != b"PK\x03\x04" or start + info.file_size > len(mapped):
                raise ValueError(f"record {info.filename} does not lie in the file")
            return mapped, start, info.file_size

        is_swapped = f"{top}/byteorder" in records and _bytes(*record("byteorder")) != sys.byteorder.encode()
        storages: dict[str, Storage] = {}

        def find_storage(identifier: Any) -> Storage:
            kind, storage_type, key, _, count = identifier
            if kind != "storage" or not isinstance(storage_type, StorageType):
                raise ValueError(f"a persistent id of kind {kind!r}")
            if key not in storages:
                data, size = _tensor(*record(f"data/{key}")), count * storage_type.dtype.itemsize
                if not 0 <= size <= data.numel():
                    raise ValueError(f"storage {key} must have {size} bytes, and has {data.numel()}")
                storages[key] = Storage(data[:size], storage_type.dtype)
                if is_swapped:
                    data.untyped_storage().byteswap(storage_type.dtype)
            return storages[key]

        return unpickle(io.BytesIO(_bytes(*record("data.pkl"))), find_storage, CONSTRUCTORS)


def is_legacy(start: bytes) -> bool:
    """Whether a file that begins so was written by an old ``torch.save``."""
    return any(magic in start[:40] for magic in _LEGACY_MAGIC)


def read_legacy(file: BinaryIO) -> Any:
    """Reads the file of an old ``torch.save``: a magic number, a version, facts of the machine, the object, storages.

    Raises:
        Exception: Any, if it is damaged.
    """
    for _ in range(3):
        unpickle(file)
    start = file.tell()
    types: dict[str, torch.dtype] = {}

    def note_type(identifier: Any) -> Any:
        if identifier[0] == "module":  # the class of a pickled module, with its source
            return identifier[1]
        _, storage_type, key, *_ = identifier
        types[key] = storage_type.dtype
        return Inert("storage")

    unpickle(file, note_type, CONSTRUCTORS)  # the storages lie behind the object that needs them
    storages = {key: _read_storage(file, types[key]) for key in unpickle(file)}
    file.seek(start)

    def find_storage(identifier: Any) -> Any:
        if identifier[0] == "module":
            return identifier[1]
        storage, view = storages[identifier[2]], identifier[5]
        if view is None:
            return storage
        _, offset, size = view
        width = storage.dtype.itemsize
        return Storage(storage.data[offset * width : (offset + size) * width], storage.dtype)

    return unpickle(file, find_storage, CONSTRUCTORS)


# A storage in a plain pickle: bytes of a file that ``torch.save`` would have written for it alone.
CONSTRUCTORS = {"torch.storage._load_from_bytes": lambda data: read_legacy(io.BytesIO(data))}


def _read_storage(file: BinaryIO, dtype: torch.dtype) -> Storage:
    (count,) = struct.unpack("<q", file.read(8))
    size = count * dtype.itemsize
    place = file.tell()
    left = file.seek(0, 2) - place
    file.seek(place)
    if not 0 <= size <= left:
        raise ValueError(f"a storage of {size} bytes where {left} are left")
    buffer = bytearray(size)
    file.readinto(buffer)  # type: ignore[attr-defined]
    return Storage(_tensor(buffer, 0, size), dtype)


def _tensor(buffer: Any, start: int, size: int) -> Tensor:
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(buffer, dtype=torch.uint8, count=size, offset=start)


def _bytes(buffer: Any, start: int, size: int) -> bytes:
    return bytes(memoryview(buffer)[start : start + size])
