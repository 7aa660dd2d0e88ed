# SPDX-License-Identifier: Apache-2.0
"""Weights that a model keeps in files beside it: which files these are, and hashes and stamps that cover them.

``freqfusion export`` writes one file, or on demand a second one that is named after its content; tools that come after
it may move the weights out, too. A model read as bytes has no folder, and ONNX Runtime then takes whatever lies under
that name in the current one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.onnx_nodes import MOST_NESTED, mapped_message, message_fields

Stamp = tuple[tuple[int, int, int], ...]
WEIGHTS_KEY = "freqfusion_weights"
"""In the metadata of a model whose weights ``freqfusion export`` wrote beside it: their file's SHA-256."""
_WRITTEN_NAME = re.compile(r"\.[0-9a-f]{16}\.data")

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
_LONGEST_COUNT = 20  # digits; no file has so many bytes


def external_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Lists the files beside a model in which it keeps weights, sorted; almost always none.

    A file that is no ONNX model has none.

    Raises:
        ModelFileError: If one of them is not in the model's folder: a model must not choose what else is read.
        OSError: If the model cannot be read.
    """
    path = Path(path)
    locations = _locations(path, _stamp(path))
    for location, _ in locations:
        if location.startswith("/") or Path(location).is_absolute() or ".." in Path(location).parts:
            raise ModelFileError(
                f"{path} keeps weights in {location!r}, outside its folder. Save it as one file: "
                f"onnx.save(onnx.load({path.name!r}), {path.name!r})."
            )
    return tuple(path.parent / location for location, _ in locations)


def weights_name(model: Path, sha256: str) -> str:
    """The name of the file beside ``model`` that ``freqfusion export`` keeps weights in."""
    return f"{model.stem}.{sha256[:16]}.data"


def is_written_beside(model: Path, file: Path) -> bool:
    """Whether ``file`` has a name that ``freqfusion export`` gives to weights of ``model``, whatever they are."""
    return file.parent == model.parent and bool(_WRITTEN_NAME.fullmatch(file.name.removeprefix(model.stem)))


def are_vouched_for(files: tuple[Path, ...], metadata: Mapping[str, str]) -> bool:
    """Whether a model says, in its metadata, by which content it knows its weights; by their name, not their bytes."""
    digest = metadata.get(WEIGHTS_KEY, "")
    return len(digest) == 64 and all(file.name.endswith(f".{digest[:16]}.data") for file in files)


def check_external_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """As :func:`external_files`, and each is there, as long as the model wants it.

    Raises:
        ModelFileError: If one is missing, ends too early, or is outside the model's folder.
    """
    files = external_files(path)
    missing = [file.relative_to(Path(path).parent).as_posix() for file in files if not os.path.isfile(file)]
    if missing:
        raise ModelFileError(
            f"{os.fspath(path)} keeps weights in {', '.join(missing)}, which is not beside it. "
            "Put it there, or write the model again with `freqfusion export`."
        )
    for file, (_, end) in zip(files, _locations(Path(path), _stamp(Path(path))), strict=True):
        if file.stat().st_size < end:
            raise ModelFileError(
                f"{os.fspath(path)} keeps weights in {file.name}, which has {file.stat().st_size} bytes of at least "
                f"{end}. Copy it again."
            )
    return files


def copy_external_files(path: Path, folder: Path) -> tuple[Path, ...]:
    """Copies the files in which a model keeps weights to where a copy of it finds them in ``folder``; returns those."""
    copies = []
    for file in check_external_files(path):
        copy = folder / file.relative_to(path.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        copies.append(copy)
    return tuple(copies)


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
def _locations(path: Path, stamp: tuple[int, int, int]) -> tuple[tuple[str, int], ...]:
    """Each file that a model keeps weights in, sorted, with where the last of them ends."""
    if not stamp[1]:
        return ()
    try:
        with mapped_message(path) as whole:
            ends: dict[str, int] = {}
            for location, end in _within(whole, "model"):
                ends[location] = max(end, ends.get(location, 0))
            return tuple(sorted(ends.items()))
    except ValueError:
        return ()


def _within(message: memoryview, kind: str, depth: int = 0) -> Iterator[tuple[str, int]]:
    if kind == "tensor":
        yield from _location(message)
        return
    if depth > MOST_NESTED:
        raise ValueError(f"it has graphs inside each other, more than {MOST_NESTED} deep")
    for number, content in message_fields(message):
        if number in _CHILDREN[kind] and isinstance(content, memoryview):
            yield from _within(content, _CHILDREN[kind][number], depth + (kind == "graph"))


def _location(tensor: memoryview) -> list[tuple[str, int]]:
    entries: dict[str, str] = {}
    is_external = False
    for number, content in message_fields(tensor):
        if number == _TENSOR_DATA_LOCATION:
            is_external = content == _EXTERNAL
        elif number == _TENSOR_EXTERNAL_DATA and isinstance(content, memoryview):
            entry = dict(_texts(content))
            entries[entry.get(1, "")] = entry.get(2, "")
    end = sum(_count(entries.get(key, "")) for key in ("offset", "length"))
    return [(entries.get("location", ""), end)] if is_external else []


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _LONGEST_COUNT else 0


def _texts(entry: memoryview) -> Iterator[tuple[int, str]]:
    for number, content in message_fields(entry):
        if isinstance(content, memoryview):
            yield number, bytes(content).decode("utf-8")
