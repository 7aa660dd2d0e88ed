# SPDX-License-Identifier: Apache-2.0
"""Keeps a model's weights in a file of their own beside it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.files import atomic_path
from freqfusion_runtime.model_files.external_data import WEIGHTS_KEY, external_files, is_written_beside, weights_name

_LEAST_BYTES = 1024  # of a weight that goes there: shapes and scalars are needed to read the graph at all
_ALIGNMENT = 4096  # a page, so that a weight can be mapped


@contextmanager
def weights_beside(model: ir.Model, path: Path) -> Iterator[None]:
    """Writes the weights of a model that will be saved at ``path`` inside the block, where it names them only.

    Their file is named after its content, so that a model finds the weights it was exported with or none. When the
    block ends well, those of the model that was at ``path`` before are removed; when it raises, the new ones are.

    Raises:
        freqfusion_runtime.errors.OutputError: If they cannot be written.
    """
    before = _written_for(path)
    large = [
        (value, tensor)
        for value in model.graph.initializers.values()
        if (tensor := value.const_value) is not None and tensor.nbytes >= _LEAST_BYTES
    ]
    tensors = [tensor for _, tensor in large]
    digest = hashlib.sha256()
    for part in _content(tensors):
        digest.update(part)
    file = path.with_name(weights_name(path, digest.hexdigest()))
    is_new = not file.exists()
    with atomic_path(file) as temporary, temporary.open("wb") as written:
        for part in _content(tensors):
            written.write(part)
    try:
        at = 0
        for value, tensor in large:
            shape, name = ir.Shape(tensor.shape.numpy()), str(value.name)
            value.const_value = ir.ExternalTensor(
                file.name, at, tensor.nbytes, tensor.dtype, shape=shape, name=name, base_dir=path.parent
            )
            at += _padded(tensor.nbytes)
        model.metadata_props[WEIGHTS_KEY] = digest.hexdigest()
        yield
    except BaseException:
        if is_new:
            file.unlink(missing_ok=True)
        raise
    for old in before:
        if old != file:
            old.unlink(missing_ok=True)


def _written_for(path: Path) -> tuple[Path, ...]:
    """The files with weights that an earlier export wrote for the model at ``path``."""
    with contextlib.suppress(OSError, ModelFileError):
        return tuple(file for file in external_files(path) if is_written_beside(path, file))
    return ()


def _content(tensors: Iterable[ir.TensorProtocol]) -> Iterator[bytes]:
    for tensor in tensors:
        yield tensor.tobytes()
        yield bytes(_padded(tensor.nbytes) - tensor.nbytes)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
