# SPDX-License-Identifier: Apache-2.0
"""Leaves a network's large factors in the file they are in, where the rest of it is handed to ONNX Runtime as bytes.

Bytes with all weights in them are held three times while they are opened: here, in protobuf's message, and as ONNX
Runtime's tensors. A Mask2Former of 430 MB took 2.2 times the memory that ONNX Runtime takes to open its file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from freqfusion_runtime.model_files.onnx_nodes import message_fields
from freqfusion_runtime.model_files.onnx_writing import field

LEAST_BYTES = 1 << 16
"""Of a weight that is worth it."""

# Field numbers of onnx.proto.
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_EXTERNAL = 1  # TensorProto.EXTERNAL
# Operators of which ONNX Runtime packs a constant second factor as it opens a model, after which it lets go of the
# file. What it kept mapped would end the process if somebody later wrote over the file.
_PACKED = ("MatMul", "Gemm")


def packed_factors(nodes: Iterable[tuple[str, Sequence[bytes]]]) -> set[bytes]:
    """Names the values that are second factors of products and nothing else, given operators with their inputs."""
    uses, factors = Counter[bytes](), Counter[bytes]()
    for operator, inputs in nodes:
        uses.update(inputs)
        if operator in _PACKED:
            factors.update(inputs[1:2])
    return {name for name, count in factors.items() if uses[name] == count}


def left_in_file(tensor: memoryview, file: memoryview, name: bytes) -> bytes | None:
    """Returns a tensor that says where in a file its data are, in place of having them.

    Args:
        tensor: Its message.
        file: What is mapped of the file that ``tensor`` is a part of.
        name: The file's.

    Returns:
        None if it has no raw data, or too few to be worth it.
    """
    parts: list[bytes] = []
    place = None
    for number, content in message_fields(tensor):
        if number == _RAW_DATA and isinstance(content, memoryview):
            if len(content) < LEAST_BYTES:
                return None
            place = _address(content) - _address(file), len(content)
        else:
            parts.append(field(number, content))
    if place is None:
        return None
    entries = {b"location": name, b"offset": b"%d" % place[0], b"length": b"%d" % place[1]}
    for key, value in entries.items():
        parts.append(field(_EXTERNAL_DATA, field(_ENTRY_KEY, key) + field(_ENTRY_VALUE, value)))
    return b"".join((*parts, field(_DATA_LOCATION, _EXTERNAL)))


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])
