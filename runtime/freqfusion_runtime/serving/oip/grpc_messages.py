# SPDX-License-Identifier: Apache-2.0
"""The protocol's inference messages over gRPC: what they will cost, what they say, and the answer.

Source: Open Inference Protocol v2; protobuf's wire format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from freqfusion_runtime.serving.oip.left_out import classification, shared_memory
from freqfusion_runtime.serving.operation.errors import BadRequestError
from freqfusion_runtime.serving.scheduling import tensors
from freqfusion_runtime.serving.scheduling.registry import LoadedModel
from freqfusion_runtime.serving.scheduling.tensors import InferCall, WantedOutput

# Which field of InferTensorContents holds a dtype's values.
_CONTENTS = {
    "BOOL": "bool_contents",
    **{f"INT{bits}": "int_contents" for bits in (8, 16, 32)},
    **{f"UINT{bits}": "uint_contents" for bits in (8, 16, 32)},
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_MAX_NAME = 256
_MAX_FIELDS = 1000  # of a request and its inputs; packed values are one
# Numbers of fields that hold messages or packed numbers: of ModelInferRequest, InferInputTensor, InferTensorContents.
_INPUTS, _SHAPE, _TENSOR_CONTENTS, _FLOATS, _DOUBLES, _TEXTS = 5, 3, 5, 6, 7, 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
# Most bytes of memory that protobuf makes of a field, of a byte of packed numbers of varying length (an int64 of one
# byte takes eight, and as many again while the list grows), of a byte of packed floats, and of any other byte, which is
# copied once as it is read and once as it is asked for.
_FIELD_COST, _VARINT_COST, _FLOAT_COST, _BYTE_COST = 512, 24, 3, 2
_TEXT_COST = 32  # a list of texts of one byte each, which no model here takes


def parsing_bytes(message: bytes) -> int:
    """Most memory that reading a ``ModelInferRequest`` takes beside its bytes.

    Raises:
        BadRequestError: If it is no message, or one of too many fields.
    """
    fields = 0

    def walk(message: memoryview) -> Iterator[tuple[int, memoryview]]:
        nonlocal fields
        try:
            for number, content in _fields(message):
                fields += 1
                if fields > _MAX_FIELDS:
                    raise BadRequestError(
                        f"the message has more than {_MAX_FIELDS} fields. Send each tensor as one entry of "
                        "raw_input_contents."
                    )
                yield number, content
        except (IndexError, ValueError) as e:
            raise BadRequestError("the message is no ModelInferRequest: it ends inside a field. Send it whole.") from e

    cost = 0
    for number, content in walk(memoryview(message)):
        cost += _BYTE_COST * len(content)
        if number == _INPUTS:
            for inner, tensor in walk(content):
                if inner == _SHAPE:
                    cost += _VARINT_COST * len(tensor)
                elif inner == _TENSOR_CONTENTS:
                    cost += _contents_bytes(tensor)
    return cost + fields * _FIELD_COST


def _contents_bytes(contents: memoryview) -> int:
    """What typed contents take: packed ones by their numbers' kind, others as if each byte were a number."""
    try:
        number, content = next(_fields(contents))
    except (IndexError, ValueError, StopIteration):
        return _TEXT_COST * len(contents)
    is_all = len(contents) - len(content) <= 11  # one field: its key and its length come before
    if is_all and number in (_FLOATS, _DOUBLES):
        return _FLOAT_COST * len(contents)
    return (_VARINT_COST if is_all and number != _TEXTS else _TEXT_COST) * len(contents)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields each field's number and its bytes; none of numbers that stand alone."""
    at, nothing = 0, memoryview(b"")
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        size = 0
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(kind)
        if at + size > len(message):
            raise IndexError(at)
        yield key >> 3, message[at : at + size] if size else nothing
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(at)


def read_request(message: bytes, kind: Any) -> Any:
    """Reads a message of any kind.

    Args:
        message: Its bytes.
        kind: Its class.

    Raises:
        BadRequestError: If it is none.
    """
    try:
        return kind.FromString(message)
    except DecodeError as e:
        raise BadRequestError(
            f"the message is no {kind.DESCRIPTOR.name}. Send it with the protocol's own stubs."
        ) from e


def read_call(request: Any, model: LoadedModel, charge: Callable[[int], None]) -> InferCall:
    """Reads what a ``ModelInferRequest`` asks of a model.

    Args:
        request: The message.
        model: Which it names.
        charge: Told how many bytes will be taken, before they are.

    Raises:
        BadRequestError: If it contradicts itself.
    """
    count = len(model.session.manifest.inputs)
    if not 1 <= len(request.inputs) <= count:
        raise BadRequestError(
            f"model {model.source.name!r} takes {count} inputs, got {len(request.inputs)}. Correct inputs."
        )
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequestError(
            f"raw_input_contents must hold the data of all {len(request.inputs)} inputs or be empty, got {len(raw)} "
            "entries. Send one for each input."
        )
    inputs: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        _check_length(tensor.name, "an input's name")
        if tensor.name in inputs:
            raise BadRequestError(f"input {tensor.name[:40]!r} is there twice. Send it once.")
        if "shared_memory_region" in tensor.parameters:
            raise shared_memory(f"input {tensor.name[:40]!r}")
        dtype = tensors.checked_dtype(tensor.name, tensor.datatype)
        shape = tensors.checked_shape(tensor.name, list(tensor.shape))
        if raw:
            inputs[tensor.name] = tensors.from_bytes(tensor.name, dtype, shape, raw[index])
        else:
            inputs[tensor.name] = _from_contents(tensor, dtype, shape, charge)
    outputs = []
    most = len(model.session.manifest.outputs)
    if len(request.outputs) > most:
        raise BadRequestError(
            f"model {model.source.name!r} has {most} outputs, {len(request.outputs)} were asked for. Ask for each once."
        )
    for output in request.outputs:
        if "shared_memory_region" in output.parameters:
            raise shared_memory(f"output {output.name[:40]!r}")
        if "classification" in output.parameters:
            raise classification(f"output {output.name[:40]!r}")
        outputs.append(WantedOutput(output.name, True))
    _check_length(request.id, "id")
    timeout = request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0
    if timeout < 0:
        raise BadRequestError(f"timeout must be a number of microseconds, got {timeout}. Correct it.")
    return InferCall(request.id, inputs, outputs, True, timeout or None)


def _check_length(text: str, what: str) -> None:
    if len(text) > _MAX_NAME:
        raise BadRequestError(f"{what} has {len(text)} characters, the limit is {_MAX_NAME}. Shorten it.")


def _from_contents(
    tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...], charge: Callable[[int], None]
) -> NDArray[Any]:
    if tensor.datatype not in _CONTENTS:
        raise BadRequestError(f"input {tensor.name[:40]!r}: {tensor.datatype} has no typed contents. Send raw ones.")
    name = _CONTENTS[tensor.datatype]
    contents = getattr(tensor.contents, name)
    expected = math.prod(shape)
    if len(contents) != expected:
        raise BadRequestError(
            f"input {tensor.name[:40]!r}: shape {list(shape)} has {expected} values, {name} has {len(contents)}. "
            "Correct one of them."
        )
    whole = np.dtype(np.uint64 if dtype == np.uint64 else np.int64) if dtype.kind in "iu" else dtype
    charge(expected * (whole.itemsize + dtype.itemsize))
    values = np.fromiter(contents, whole, expected)
    if dtype.kind in "iu" and expected:
        limits = np.iinfo(dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise BadRequestError(
                f"input {tensor.name[:40]!r}: {tensor.datatype} holds {limits.min} to {limits.max}, {name} has "
                f"{values.min()} to {values.max()}. Convert it."
            )
    result: NDArray[Any] = values.astype(dtype, copy=False).reshape(shape)
    return result


def write_answer(
    call: InferCall, outputs: Mapping[str, NDArray[Any]], model: LoadedModel, charge: Callable[[int], None]
) -> Any:
    """Writes the answer to a call, all outputs as bytes.

    Args:
        call: The call.
        outputs: All of the model's.
        model: Which answered.
        charge: Told how many bytes it will take, once more for sending it included.
    """
    response = pb.ModelInferResponse(
        model_name=model.source.name, model_version=model.source.version, id=call.request_id
    )
    for output in call.outputs or [WantedOutput(name) for name in outputs]:
        value = outputs[output.name]
        response.outputs.add(name=output.name, datatype=tensors.datatype(value.dtype), shape=value.shape)
        charge(3 * value.nbytes)
        response.raw_output_contents.append(tensors.to_bytes(value))
    return response
