# SPDX-License-Identifier: Apache-2.0
"""Tensors of the Open Inference Protocol: names of dtypes, metadata of models, and checks of what clients send."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.model_files.free_sizes import sizes_fault
from freqfusion_runtime.model_files.manifest import TensorSpec
from freqfusion_runtime.serving.operation.errors import BadRequestError, TooLargeError
from freqfusion_runtime.serving.scheduling.registry import LoadedModel

# Protocol -> numpy. BF16 and BYTES exist in the protocol; no model of ours takes them.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"{kind.upper()}{bits}": np.dtype(f"{kind}{bits}") for kind in ("uint", "int") for bits in (8, 16, 32, 64)},
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
ENCODED_PICTURES = (
    "An encoded picture (JPEG, PNG) is taken as the whole body of a POST, with Content-Type: image/* to "
    "/v2/models/NAME/infer, or to /v1/segment."
)
_PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PLATFORMS = {".onnx": ("onnxruntime_onnx", "onnxruntime"), ".plan": ("tensorrt_plan", "tensorrt")}
_MAX_RANK = 8
_CHANNELS = 3
_MAX_SIDE = 2**31 - 1


@dataclass(frozen=True)
class WantedOutput:
    """An output a client asked for; ``binary`` is None where the request's default holds."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, eq=False)
class InferCall:
    """A parsed inference request of either protocol."""

    request_id: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Sequence[WantedOutput] = ()
    binary_output: bool = False
    timeout_us: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def datatype(dtype: str | np.dtype[Any]) -> str:
    """Names a numpy dtype in the protocol's words."""
    return _NAMES[np.dtype(dtype)]


def free_shape(spec: TensorSpec) -> list[int]:
    """Writes a shape with -1 for sides that are free."""
    return [side if isinstance(side, int) else -1 for side in spec.shape]


def metadata(model: LoadedModel, versions: Sequence[str]) -> dict[str, Any]:
    """Describes a model as the protocol's metadata answer does."""
    manifest = model.session.manifest
    return {
        "name": model.source.name,
        "versions": list(versions),
        "platform": _platform(model)[0],
        "inputs": [_tensor_metadata(spec) for spec in manifest.inputs],
        "outputs": [_tensor_metadata(spec) for spec in manifest.outputs],
    }


def configuration(model: LoadedModel, max_batch: int, max_delay_ms: float) -> dict[str, Any]:
    """Describes a model as Triton's configuration does; load tools read the batch size and the shapes from it."""
    manifest = model.session.manifest
    batched = model.is_batchable

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        # Where there is a batch size, Triton's shapes leave the first side out.
        return {
            "name": spec.name,
            "data_type": f"TYPE_{datatype(spec.dtype)}",
            "dims": free_shape(spec)[1 if batched else 0 :],
        }

    return {
        "name": model.source.name,
        "platform": _platform(model)[0],
        "backend": _platform(model)[1],
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max(1, max_batch) if batched else 0,
        "input": [tensor(spec) for spec in manifest.inputs],
        "output": [tensor(spec) for spec in manifest.outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": round(max_delay_ms * 1e3)} if max_batch > 1 else {},
    }


def checked_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Reads a shape as sent.

    Raises:
        BadRequestError: If it is no list of sizes.
    """
    is_list = isinstance(shape, Sequence) and not isinstance(shape, str) and len(shape) <= _MAX_RANK
    if not is_list or not all(type(side) is int and 0 <= side <= _MAX_SIDE for side in shape):
        raise BadRequestError(
            f"input {name!r}: shape must be a list of up to {_MAX_RANK} sizes, got {shown(shape)}. Correct it."
        )
    return tuple(shape)


def checked_dtype(name: str, text: Any) -> np.dtype[Any]:
    """Reads a dtype as sent.

    Raises:
        BadRequestError: If it is none of the protocol's, or one that no model here takes.
    """
    if not isinstance(text, str) or text not in DTYPES:
        remedy = ENCODED_PICTURES if text == "BYTES" else "Convert it."
        raise BadRequestError(
            f"input {name!r}: datatype must be one of {', '.join(DTYPES)}, got {shown(text)}. {remedy}"
        )
    return DTYPES[text]


def shown(value: Any) -> str:
    """Writes something a client sent in a few words, however much of it there is."""
    return reprlib.repr(value)[:80]


def is_encoded_picture(data: memoryview | bytes) -> bool:
    """Whether bytes begin like a picture file."""
    return bytes(data[:8]).startswith(_PICTURE_STARTS)


def from_bytes(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], data: memoryview | bytes) -> NDArray[Any]:
    """Reads a tensor's little-endian bytes without copying them.

    Raises:
        BadRequestError: If there are too many or too few.
    """
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise BadRequestError(
            f"input {name!r}: {datatype(dtype)} of shape {list(shape)} has {expected} bytes, got {len(data)}. "
            + (ENCODED_PICTURES if is_encoded_picture(data) else "Correct the shape or the data.")
        )
    if dtype == np.bool_:
        values = np.frombuffer(data, np.uint8)
        if values.size and values.max() > 1:
            raise BadRequestError(f"input {name!r}: a BOOL byte must be 0 or 1, got {values.max()}. Correct the data.")
    array: NDArray[Any] = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    return array


def to_bytes(value: NDArray[Any]) -> bytes:
    """Writes a tensor as little-endian bytes, row by row."""
    return np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()


def check_names(names: Sequence[str], model: LoadedModel) -> None:
    """Checks the names of all inputs of a call.

    Raises:
        BadRequestError: If one is missing, unknown or named twice.
    """
    wanted = [spec.name for spec in model.session.manifest.inputs]
    if sorted(names) != sorted(wanted):
        given = ", ".join(repr(str(name)[:40]) for name in names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise BadRequestError(
            f"model {model.source.name!r} takes the inputs {', '.join(map(repr, wanted))}, got {given or 'none'}"
            f"{more}. "
            "Send each of them once."
        )


def check_call(call: InferCall, model: LoadedModel) -> None:
    """Checks a call against its model, so that the device only sees what it can run.

    Raises:
        BadRequestError: If a name, dtype, shape or output is not the model's.
        TooLargeError: If a tensor has more pixels than a picture may have.
    """
    manifest = model.session.manifest
    check_names(list(call.inputs), model)
    for spec in manifest.inputs:
        value = call.inputs[spec.name]
        shape = free_shape(spec)
        if value.dtype != np.dtype(spec.dtype):
            raise BadRequestError(
                f"input {spec.name!r} must be {datatype(spec.dtype)}, got {datatype(value.dtype)}. Convert it."
            )
        fits = len(shape) == value.ndim and all(side in (-1, got) for side, got in zip(shape, value.shape, strict=True))
        if not fits or 0 in value.shape:
            raise BadRequestError(
                f"input {spec.name!r} must have shape {shape} with -1 for any positive size, got {list(value.shape)}. "
                "Reshape it."
            )
    if manifest.task == "network":
        _check_sizes(call, model)
    else:
        picture = manifest.inputs[0]  # what follows it, such as its size before padding, is small
        _check_picture_sides(picture, call.inputs[picture.name], model)
    names = [spec.name for spec in manifest.outputs]
    for output in call.outputs:
        if output.name not in names:
            raise BadRequestError(
                f"model {model.source.name!r} has no output {output.name[:40]!r}. Choose one of: {', '.join(names)}."
            )


def _check_sizes(call: InferCall, model: LoadedModel) -> None:
    manifest, limit = model.session.manifest, _CHANNELS * model.max_pixels
    for name, value in call.inputs.items():
        if value.size > limit:
            raise TooLargeError(
                f"input {name!r} has {value.size / 1e6:.1f} million numbers, the limit is {limit / 1e6:.1f}, "
                f"{_CHANNELS} for each pixel of a picture. Send less, or start the server with a larger "
                "--max-image-pixels."
            )
    shapes = {name: value.shape for name, value in call.inputs.items()}
    if (fault := sizes_fault(manifest.inputs, manifest.sizes, shapes)) is not None:
        raise BadRequestError(fault)


def _check_picture_sides(spec: TensorSpec, value: NDArray[Any], model: LoadedModel) -> None:
    manifest = model.session.manifest
    image = manifest.interface == "image"
    height, width = value.shape[1:3] if image else value.shape[2:4]
    pixels, limit = value.shape[0] * height * width, model.max_pixels
    if pixels > limit:
        raise TooLargeError(
            f"input {spec.name!r} has {pixels / 1e6:.1f} megapixels, the limit is {limit / 1e6:.1f}. Send fewer, or "
            "start the server with a larger --max-image-pixels."
        )
    step = manifest.preprocessing.size_divisor
    if not image and (height % step or width % step):
        raise BadRequestError(
            f"input {spec.name!r} must have a height and a width that are multiples of {step}, got {height} x {width}. "
            "Resize it, or send the picture to /v1/segment."
        )


def _platform(model: LoadedModel) -> tuple[str, str]:
    """Names platform and backend as Triton does for files of such a suffix."""
    suffix = model.source.path.suffix.lower()
    return _PLATFORMS.get(suffix, ("pytorch_libtorch", "pytorch"))


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype(spec.dtype), "shape": free_shape(spec)}
