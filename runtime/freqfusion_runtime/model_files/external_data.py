# SPDX-License-Identifier: Apache-2.0
"""Weights that a model keeps in files beside it: which files these are, and hashes and stamps that cover them.

``freqfusion export`` writes one file; tools that come after it may move the weights out. A model read as bytes has no
folder, and ONNX Runtime then takes whatever lies under that name in the current one.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.onnx_nodes import MOST_NESTED, mapped_message, message_fields

Stamp = tuple[tuple[int, int, int], ...]

# Field numbers of onnx.proto: which fields of a message hold further messages with tensors in them.
_CHILDREN = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_EXTERNAL = 1  # TensorProto.EXTERNAL


def external_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Lists the files beside a model in which it keeps weights, sorted; almost always none.

    A file that is no ONNX model has none.

    Raises:
        ModelFileError: If one of them is not in the model's folder: a model must not choose what else is read.
        OSError: If the model cannot be read.
    """
    path = Path(path)
    locations = _locations(path, _stamp(path))
    for location in locations:
        if location.startswith("/") or Path(location).is_absolute() or ".." in Path(location).parts:
            raise ModelFileError(
                f"{path} keeps weights in {location!r}, outside its folder. Save it as one file: "
                f"onnx.save(onnx.load({path.name!r}), {path.name!r})."
            )
    return tuple(path.parent / location for location in locations)


def check_external_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """As :func:`external_files`, and each is there.

    Raises:
        ModelFileError: If one is missing, or outside the model's folder.
    """
    files = external_files(path)
    missing = [file.relative_to(Path(path).parent).as_posix() for file in files if not os.path.isfile(file)]
    if missing:
        raise ModelFileError(
            f"{os.fspath(path)} keeps weights in {', '.join(missing)}, which is not beside it. "
            "Put it there, or write the model again with `freqfusion export`."
        )
    return files


def model_sha256(path: str | os.PathLike[str]) -> str:
    """Hashes a model with all its weights.

    That is the file's own SHA-256, or, of a model with weights in other files, the SHA-256 over the digests of all
    files: the model's, then the others' in order of name.

    Raises:
        ModelFileError: As :func:`check_external_files`.
    """
    files = check_external_files(path)
    if not files:
        return sha256_of(path)
    return hashlib.sha256(b"".join(bytes.fromhex(sha256_of(file)) for file in (path, *files))).hexdigest()


def stamp_of(path: Path) -> Stamp:
    """Tells one state of a model from another without reading weights: inode, size, time of change of each file in ns.

    Raises:
        ModelFileError, OSError: If one of its files cannot be found.
    """
    return (_stamp(path), *map(_stamp, check_external_files(path)))


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)  # a server asks again every few seconds
def _locations(path: Path, stamp: tuple[int, int, int]) -> tuple[str, ...]:
    if not stamp[1]:
        return ()
    try:
        with mapped_message(path) as whole:
            return tuple(sorted(set(_within(whole, "model"))))
    except ValueError:
        return ()


def _within(message: memoryview, kind: str, depth: int = 0) -> Iterator[str]:
    if kind == "tensor":
        yield from _location(message)
        return
    if depth > MOST_NESTED:
        raise ValueError(f"it has graphs inside each other, more than {MOST_NESTED} deep")
    for number, content in message_fields(message):
        if number in _CHILDREN[kind] and isinstance(content, memoryview):
            yield from _within(content, _CHILDREN[kind][number], depth + (kind == "graph"))


def _location(tensor: memoryview) -> list[str]:
    found, is_external = "", False
    for number, content in message_fields(tensor):
        if number == _TENSOR_DATA_LOCATION:
            is_external = content == _EXTERNAL
        elif number == _TENSOR_EXTERNAL_DATA and isinstance(content, memoryview):
            entry = dict(_texts(content))
            if entry.get(1) == "location":
                found = entry.get(2, "")
    return [found] if is_external else []


def _texts(entry: memoryview) -> Iterator[tuple[int, str]]:
    for number, content in message_fields(entry):
        if isinstance(content, memoryview):
            yield number, bytes(content).decode("utf-8")
