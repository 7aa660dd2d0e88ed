# SPDX-License-Identifier: Apache-2.0
"""The protocol's REST bodies: JSON, with tensors as numbers in it or as bytes behind it.

Source: Open Inference Protocol v2, and Triton's binary tensor data extension. Where those leave room for two readings
of a request, it is refused: a field named twice, sizes that do not add up, numbers that a dtype cannot hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.model_files.hostile_json import JsonError, JsonLimits, read_json
from freqfusion_runtime.serving.oip.json_numbers import to_array
from freqfusion_runtime.serving.oip.left_out import classification, shared_memory
from freqfusion_runtime.serving.operation.errors import BadRequestError, TooLargeError
from freqfusion_runtime.serving.scheduling.registry import LoadedModel
from freqfusion_runtime.serving.scheduling.tensors import (
    ENCODED_PICTURES,
    InferCall,
    WantedOutput,
    check_names,
    checked_dtype,
    checked_shape,
    datatype,
    from_bytes,
    is_encoded_picture,
    shown,
    to_bytes,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
_MAX_JSON_NUMBERS = 4_000_000
# Most bytes that a number of an answer takes as a Python object, as text, and as that text once more with the rest.
_BYTES_PER_NUMBER = 40 + 2 * 25
_MAX_ID = 256
_MAX_DEPTH = 16  # a tensor's lists in an input in the list of inputs in the request


def parse(
    body: bytes,
    header_length: str | None,
    max_json: int,
    model: LoadedModel,
    charge: Callable[[int], None] = lambda _: None,
) -> InferCall:
    """Reads an inference request.

    Args:
        body: The whole body.
        header_length: Value of the header that tells where JSON ends and bytes begin; None where all is JSON.
        max_json: Longest JSON part in bytes.
        model: For which it is meant.
        charge: Told how many bytes will be taken, before they are; what it raises passes as it is.

    Raises:
        BadRequestError: If it is malformed.
        TooLargeError: If its JSON is too long.
    """
    length = len(body) if header_length is None else _header_length(header_length, len(body))
    _check_length(length, max_json)
    if length < len(body):
        charge(length)  # of JSON, cut off
    fields = _object(_load(body if length == len(body) else body[:length], charge), "the request")
    rest = memoryview(body)[length:]
    parameters = _object(fields.get("parameters", {}), "parameters")
    inputs = _inputs(_list(fields.get("inputs"), "inputs"), rest, model, charge)
    return InferCall(
        request_id=_text(fields.get("id", ""), "id"),
        inputs=inputs,
        outputs=_outputs(_list(fields.get("outputs", []), "outputs"), model),
        binary_output=_flag(parameters.get("binary_data_output", False), "binary_data_output"),
        timeout_us=_timeout(parameters.get("timeout")),
        parameters=parameters,
    )


def parse_raw(body: bytes, shape_header: str | None, model: LoadedModel) -> InferCall:
    """Reads a request whose body is the only input's bytes and nothing else (header length 0).

    Args:
        body: The tensor's bytes.
        shape_header: Its shape as ``1,480,640,3``; needed where more than one side is free.
        model: For which it is meant.

    Raises:
        BadRequestError: If the model has several inputs, or the shape is unknown or wrong.
    """
    specs = model.session.manifest.inputs
    if len(specs) != 1:
        raise BadRequestError(f"model {model.source.name!r} has {len(specs)} inputs, raw binary needs one. Use JSON.")
    spec = specs[0]
    dtype = np.dtype(spec.dtype)
    if shape_header is not None:
        sides = [part.strip() for part in shape_header.split(",")]
        if not all(side.isascii() and side.isdigit() and len(side) < 12 for side in sides):
            raise BadRequestError(
                f"the shape must be sizes with commas between, got {shape_header[:60]!r}. Correct it."
            )
        shape = checked_shape(spec.name, [int(side) for side in sides])
    else:
        shape = _only_shape(spec.name, spec.shape, len(body) // dtype.itemsize)
    return InferCall("", {spec.name: from_bytes(spec.name, dtype, shape, body)}, binary_output=True)


def write(
    call: InferCall, outputs: Mapping[str, NDArray[Any]], model: LoadedModel, charge: Callable[[int], None]
) -> tuple[list[bytes], int | None]:
    """Writes the answer to a call.

    Args:
        call: The call.
        outputs: All of the model's.
        model: Which answered.
        charge: Told how many bytes the parts will take, once more for joining them included.

    Returns:
        Parts of the body, and the length of its JSON part where bytes follow, else None.

    Raises:
        BadRequestError: If an output is to be JSON and cannot be.
    """
    wanted = call.outputs or [WantedOutput(name) for name in outputs]
    entries, parts = [], []
    for output in wanted:
        value = outputs[output.name]
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": datatype(value.dtype),
            "shape": list(value.shape),
        }
        if call.binary_output if output.binary is None else output.binary:
            charge(2 * value.nbytes)
            data = to_bytes(value)
            entry["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        else:
            entry["data"] = _numbers(output.name, value, charge)
        entries.append(entry)
    answer: dict[str, Any] = {"model_name": model.source.name, "model_version": model.source.version}
    if call.request_id:
        answer["id"] = call.request_id
    answer["outputs"] = entries
    header = json.dumps(answer, separators=(",", ":")).encode()
    return [header, *parts], len(header) if parts else None


def parse_index_request(body: bytes, max_json: int, charge: Callable[[int], None]) -> bool:
    """Reads whether only models that are ready are to be listed; an empty body lists all.

    Raises:
        BadRequestError: If it is malformed.
        TooLargeError: If it is too long.
    """
    _check_length(len(body), max_json)
    fields = _object(_load(body, charge), "the request") if body.strip() else {}
    return _flag(fields.get("ready", False), "ready")


def _check_length(length: int, max_json: int) -> None:
    if length > max_json:
        raise TooLargeError(
            f"the request has {length} bytes of JSON, the limit is {max_json}. Send tensors as binary data, or start "
            "the server with a larger --max-json-mb."
        )


def _load(text: bytes, charge: Callable[[int], None]) -> Any:
    limits = JsonLimits(length=len(text), depth=_MAX_DEPTH)
    try:
        return read_json(text, "the JSON", limits, charge)
    except JsonError as e:
        if is_encoded_picture(text):
            raise BadRequestError(f"{e.fact}. {ENCODED_PICTURES}") from e
        raise BadRequestError(str(e)) from e


def _header_length(text: str, length: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12) or int(text) > length:
        raise BadRequestError(
            f"{HEADER_LENGTH} must be a number of bytes up to the body's {length}, got {text[:40]!r}. Correct it."
        )
    return int(text)


def _inputs(
    entries: list[Any], rest: memoryview, model: LoadedModel, charge: Callable[[int], None]
) -> dict[str, NDArray[Any]]:
    count = len(model.session.manifest.inputs)
    if not 1 <= len(entries) <= count:
        raise BadRequestError(f"model {model.source.name!r} takes {count} inputs, got {len(entries)}. Correct inputs.")
    inputs: dict[str, NDArray[Any]] = {}
    names = []
    at = 0
    for entry in entries:
        fields = _object(entry, "an input")
        name = _text(fields.get("name"), "an input's name")
        names.append(name)
        dtype = checked_dtype(name, fields.get("datatype"))
        shape = checked_shape(name, fields.get("shape"))
        parameters = _object(fields.get("parameters", {}), f"parameters of input {name!r}")
        if "shared_memory_region" in parameters:
            raise shared_memory(f"input {name!r}")
        size = parameters.get("binary_data_size")
        if (size is None) == ("data" not in fields):
            raise BadRequestError(f"input {name!r} needs either data or binary_data_size, and not both. Correct it.")
        if size is None:
            data = fields["data"]
            if isinstance(data, str):
                raise BadRequestError(f"input {name!r}: data is a text, no {datatype(dtype)}. {ENCODED_PICTURES}")
            inputs[name] = to_array(name, dtype, shape, _list(data, f"data of input {name!r}"), charge)
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - at:
            raise BadRequestError(
                f"input {name!r}: binary_data_size must be a number up to the {len(rest) - at} bytes that are left in "
                f"the body, got {shown(size)}. Correct it, or send the whole body."
            )
        inputs[name] = from_bytes(name, dtype, shape, rest[at : at + size])
        at += size
    check_names(names, model)
    if at != len(rest):
        raise BadRequestError(f"{len(rest) - at} bytes follow the last input's data. Send none, or correct the sizes.")
    return inputs


def _outputs(entries: list[Any], model: LoadedModel) -> list[WantedOutput]:
    count = len(model.session.manifest.outputs)
    if len(entries) > count:
        raise BadRequestError(
            f"model {model.source.name!r} has {count} outputs, {len(entries)} were asked for. Ask for each once."
        )
    wanted = []
    for entry in entries:
        fields = _object(entry, "an output")
        name = _text(fields.get("name"), "an output's name")
        parameters = _object(fields.get("parameters", {}), f"parameters of output {name!r}")
        if "shared_memory_region" in parameters:
            raise shared_memory(f"output {name!r}")
        if parameters.get("classification"):
            raise classification(f"output {name!r}")
        binary = parameters.get("binary_data")
        wanted.append(WantedOutput(name, None if binary is None else _flag(binary, "binary_data")))
    return wanted


def _only_shape(name: str, spec: Sequence[int | str], values: int) -> tuple[int, ...]:
    """Finds the one shape that a number of values can have; a free first side alone is the batch and 1."""
    sides = [side if isinstance(side, int) else -1 for side in spec]
    if sides.count(-1) > 1 and sides[0] == -1:
        sides[0] = 1
    fixed = math.prod(side for side in sides if side != -1)
    if sides.count(-1) > 1 or values % max(1, fixed):
        raise BadRequestError(
            f"input {name!r} of shape {[s if isinstance(s, int) else -1 for s in spec]}: {values} values do not tell "
            "its size. Send the header X-Tensor-Shape: 1,480,640,3 or the like, or an encoded picture as image/*."
        )
    return tuple(values // max(1, fixed) if side == -1 else side for side in sides)


def _numbers(name: str, value: NDArray[Any], charge: Callable[[int], None]) -> list[Any]:
    if value.size > _MAX_JSON_NUMBERS:
        raise BadRequestError(
            f"output {name!r} has {value.size} values, too many for JSON. Ask for it with binary_data: true."
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise BadRequestError(
            f"output {name!r} has infinite values or such that are no number, which JSON cannot hold. Ask for it with "
            "binary_data: true."
        )
    charge(value.size * _BYTES_PER_NUMBER)
    numbers: list[Any] = value.ravel().tolist()
    return numbers


def _object(value: Any, what: str) -> dict[str, Any]:
    """Checks an object; a member that is null is as good as absent, as clients in typed languages write it."""
    if not isinstance(value, dict):
        raise BadRequestError(f"{what} must be a JSON object, got {_kind(value)}. Correct it.")
    return {name: member for name, member in value.items() if member is not None}


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequestError(f"{what} must be a JSON list, got {_kind(value)}. Correct it.")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_ID:
        raise BadRequestError(f"{what} must be a string of up to {_MAX_ID} characters, got {_kind(value)}. Correct it.")
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise BadRequestError(f"{what} must be true or false, got {_kind(value)}. Correct it.")
    return value


def _timeout(value: Any) -> int | None:
    # Clients send 0 for none.
    if value is None or value == 0:
        return None
    if type(value) is not int or value < 0:
        raise BadRequestError(f"timeout must be a number of microseconds, got {_kind(value)}. Correct it.")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {shown(value)}"
