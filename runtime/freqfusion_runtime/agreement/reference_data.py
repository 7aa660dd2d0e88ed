# SPDX-License-Identifier: Apache-2.0
"""What PyTorch computed on some pictures, in one file, for machines that build engines and have no PyTorch.

The file is a ZIP of ``.npy`` arrays without pickles (numpy calls it ``.npz``) and one JSON text. It belongs to one ONNX
file, by hash.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.agreement.array_archive import ArchiveError, ArrayArchive
from freqfusion_runtime.agreement.noise import NoiseEntry
from freqfusion_runtime.errors import ReferenceDataError
from freqfusion_runtime.files import atomic_path, json_text
from freqfusion_runtime.model_files.hostile_json import JsonError, JsonLimits, read_json
from freqfusion_runtime.model_files.manifest import Manifest
from freqfusion_runtime.model_files.typed_records import RecordError, read_record
from freqfusion_runtime.sessions.protocol import OperatorPath

SUFFIX = ".npz"
FORMAT_VERSION = 1
_FACTS_LIMITS = JsonLimits(length=64 << 20)
_MOST_OPERATOR_BYTES = 1 << 30  # protobuf, which ONNX is written in, goes up to twice that
_FACTS, _OPERATORS = "facts.json", "operators.onnx"
_REMEDY = (
    "Write it again with `freqfusion parity MODEL.onnx PHOTO... --checkpoint CHECKPOINT --save-reference FILE.npz`."
)


@dataclass(frozen=True)
class ReferenceOperator:
    """One FreqFusion node: its name, its operator, and the names of its inputs and its output in the graph."""

    node: str
    operator: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, kw_only=True)
class ReferenceFacts:
    """Where the numbers come from.

    Attributes:
        onnx_file, onnx_sha256: The exported file that they belong to; its name is without folders.
        checkpoint_file, checkpoint_sha256: Whose weights PyTorch had.
        manifest: Of PyTorch's side: the exported file's with normalised images in and scores or boxes out, as JSON.
        operators: In the order of computation.
        versions: Of the packages that computed.
        noise_floor: What PyTorch differs from itself by; empty where that was not measured.
    """

    onnx_file: str
    onnx_sha256: str
    checkpoint_file: str
    checkpoint_sha256: str
    manifest: str
    operators: tuple[ReferenceOperator, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    noise_floor: tuple[NoiseEntry, ...] = ()


@dataclass(frozen=True, eq=False)
class ReferencePicture:
    """What PyTorch computed on one picture.

    Attributes:
        name: Of the picture's file.
        photo: ``(H, W, 3)`` uint8, RGB.
        values: Inputs and outputs of FreqFusion operators inside the network, by their names in the graph, fp32.
        alone: Each operator's output computed from its inputs as the file's type holds them, by node.
        outputs: The network's, by name.
        labels: ``(H, W)`` label map; None of models that find objects.
    """

    name: str
    photo: NDArray[np.uint8]
    values: Mapping[str, NDArray[np.float32]]
    alone: Mapping[str, NDArray[np.float32]]
    outputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None = None


def write_reference_data(
    path: str | os.PathLike[str], facts: ReferenceFacts, operator_model: bytes, pictures: Iterable[ReferencePicture]
) -> None:
    """Writes the file, whole or not at all; pictures are taken one at a time.

    Args:
        path: Ends in ``.npz``.
        facts: Where the numbers come from.
        operator_model: An ONNX file of the FreqFusion nodes standing alone: inputs and outputs are theirs, in fp32.
        pictures: At least one.

    Raises:
        ReferenceDataError: If the name has another ending.
        OutputError: If the file cannot be written.
    """
    if Path(path).suffix != SUFFIX:
        raise ReferenceDataError(f"{os.fspath(path)} does not end in {SUFFIX}. Name the reference data so.")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        names = []
        for index, picture in enumerate(pictures):
            names.append(picture.name)
            for key, array in _arrays(picture).items():
                with archive.open(f"{index}/{key}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
        archive.writestr(_OPERATORS, operator_model)
        record = {"format_version": FORMAT_VERSION, "pictures": names, **asdict(facts)}
        archive.writestr(_FACTS, json_text(record, indent=1, sort_keys=True))


@dataclass(frozen=True)
class _Names:
    """Of the pictures, in the record beside the facts."""

    pictures: tuple[str, ...]


class ReferenceData:
    """Reference data in a file; arrays are read when they are asked for.

    Args:
        path: Written by :func:`write_reference_data`.

    Raises:
        ReferenceDataError: If it is none, damaged, or of another format version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ReferenceDataError(f"{path} does not exist. {_REMEDY}")
        try:
            with ArrayArchive(path) as archive:
                record = read_json(archive.content(_FACTS, _FACTS_LIMITS.length), _FACTS, _FACTS_LIMITS)
                self.operator_model = archive.content(_OPERATORS, _MOST_OPERATOR_BYTES)
            version = record.pop("format_version", None) if isinstance(record, dict) else None
            if version != FORMAT_VERSION:
                raise ReferenceDataError(
                    f"{path} has reference format {version!r:.40}, this runtime reads {FORMAT_VERSION}. {_REMEDY}"
                )
            self.names = read_record(_Names, {"pictures": record.pop("pictures", None)}, _FACTS).pictures
            self.facts = read_record(ReferenceFacts, record, _FACTS, defaults=True)
        except (ArchiveError, JsonError, RecordError) as e:
            raise self._damaged(e) from e
        self.manifest = Manifest.from_json(self.facts.manifest, source=str(path))

    def check_belongs(self, onnx: Path, sha256: str) -> None:
        """Makes sure that the numbers are of this exported file.

        Raises:
            ReferenceDataError: If they are another's.
        """
        if sha256 != self.facts.onnx_sha256:
            raise ReferenceDataError(
                f"{self.path} holds what PyTorch computed for {self.facts.onnx_file} with sha256 "
                f"{self.facts.onnx_sha256[:12]}..., and {onnx} has {sha256[:12]}.... {_REMEDY}"
            )

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Reads one picture without what was computed on it.

        Raises:
            ReferenceDataError: If it is damaged.
        """
        try:
            with ArrayArchive(self.path) as archive:
                return archive.array(f"{index}/photo")
        except ArchiveError as e:
            raise self._damaged(e) from e

    def picture(self, index: int) -> ReferencePicture:
        """Reads one picture's arrays.

        Raises:
            ReferenceDataError: If they are damaged.
        """
        groups: dict[str, dict[str, NDArray[Any]]] = {"values": {}, "alone": {}, "outputs": {}}
        single: dict[str, NDArray[Any]] = {}
        try:
            with ArrayArchive(self.path) as archive:
                for key in archive.names:
                    head, _, rest = key.partition("/")
                    if head != str(index):
                        continue
                    group, _, name = rest.partition("/")
                    if group in groups:
                        groups[group][name] = archive.array(key)
                    else:
                        single[group] = archive.array(key)
        except ArchiveError as e:
            raise self._damaged(e) from e
        if "photo" not in single or not 0 <= index < len(self.names):
            raise self._damaged(ArchiveError(f"it holds no {index}/photo"))
        return ReferencePicture(self.names[index], single["photo"], labels=single.get("labels"), **groups)

    def _damaged(self, error: Exception) -> ReferenceDataError:
        reason = error.fact if isinstance(error, JsonError) else error
        return ReferenceDataError(f"{self.path} is no reference data, or damaged ({reason}). {_REMEDY}")


class RecordedSession:
    """Gives what PyTorch computed for one picture, as a session, so that the same post-processing follows."""

    def __init__(self, path: Path, manifest: Manifest, outputs: Mapping[str, NDArray[Any]]) -> None:
        self.path, self.manifest, self.provider = path, manifest, "PyTorch, recorded"
        self.operator_paths: tuple[OperatorPath, ...] = ()
        self._outputs = outputs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The recorded outputs, whatever the inputs."""
        return {name: array.copy() for name, array in self._outputs.items()}


def _arrays(picture: ReferencePicture) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"photo": picture.photo}
    if picture.labels is not None:
        arrays["labels"] = picture.labels
    for group in ("values", "alone", "outputs"):
        arrays |= {f"{group}/{name}": array for name, array in getattr(picture, group).items()}
    return arrays
