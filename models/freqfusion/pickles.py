# SPDX-License-Identifier: Apache-2.0
"""Reads pickled checkpoints without running what they ask to be run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from freqfusion.errors import CheckpointError

# Globals a pickle may name and get: constructors of plain data, none of which runs anything else.
_DATA = {
    "collections": {"OrderedDict", "defaultdict"},
    "_codecs": {"encode"},
    "builtins": {"set", "frozenset", "bytearray", "complex", "slice"},
    "torch": {
        "Size",
        "device",
        "Tensor",
        "float32",
        "float16",
        "bfloat16",
        "float64",
        "int64",
        "int32",
        "uint8",
        "bool",
    },
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"},
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
}
# Packages whose objects lie beside the weights in training checkpoints (logs, configurations). They are replaced by
# inert placeholders: nothing of them is imported.
_BESIDE_WEIGHTS = ("mmcv", "mmengine", "mmseg", "mmdet", "addict", "yapf", "pathlib", "datetime", "argparse")


class _Inert:
    """Stands for an object that is not rebuilt: takes any arguments and state, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, *_: Any) -> None: ...
    def append(self, _: Any) -> None: ...
    def extend(self, _: Any) -> None: ...


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _DATA.get(module, ()) or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        if module.split(".")[0] in _BESIDE_WEIGHTS:
            return _Inert
        raise CheckpointError(
            f"the pickle asks for {module}.{name}, which is not plain data. Nothing was run. "
            "Convert the file to safetensors where you trust it, or get it from its author again"
        )


_RESTRICTED = SimpleNamespace(
    __name__="freqfusion.pickles",
    Unpickler=_DataUnpickler,
    load=lambda file, **options: _DataUnpickler(file, **options).load(),
)


def read_torch(path: Path) -> Any:
    """Reads a ``torch.save`` file (zip or legacy) holding plain data and tensors.

    Raises:
        CheckpointError: If it is truncated, not such a file, or asks for anything but data.
    """
    return _reading(path, lambda: torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RESTRICTED))


def read_pickle(path: Path) -> Any:
    """Reads a plain pickle of numpy arrays, such as detectron2's ``.pkl``.

    Raises:
        CheckpointError: As ``read_torch``.
    """
    return _reading(path, lambda: _DataUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load())


def _reading(path: Path, read: Any) -> Any:
    try:
        return read()
    except CheckpointError as e:
        raise CheckpointError(f"{path}: {e}") from e
    except Exception as e:  # a hostile or truncated file can raise anything while it is parsed
        reason = str(e).split("\n")[0][:200] or type(e).__name__
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a checkpoint: {reason}. "
            "It is truncated or of another format; fetch it again and compare its checksum"
        ) from e
