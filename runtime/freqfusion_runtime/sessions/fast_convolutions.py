# SPDX-License-Identifier: Apache-2.0
"""Puts our kernel in place of a model's 3 x 3 convolutions as it is opened; the file keeps the standard operator.

Written on protobuf's wire format: a machine that only runs models has no onnx package.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from freqfusion_runtime.model_files.external_data import external_files
from freqfusion_runtime.model_files.onnx_nodes import DOMAIN, mapped_message, message_fields, messages, whole_numbers
from freqfusion_runtime.model_files.onnx_writing import field, header
from freqfusion_runtime.sessions.weights_in_file import left_in_file, packed_factors

OPERATOR = "Convolve3x3"
FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"
"""Of ONNX Runtime's session options: where a model that is opened as bytes has its other files."""
MIN_CHANNELS = 128
"""Of input and output. Below, transforming tiles costs what the products save."""

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12
_VALUE_NAME = 1
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_TENSOR_DIMS, _TENSOR_DTYPE, _TENSOR_NAME = 1, 2, 8
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_GRAPH, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 3, 4, 6, 8, 20
_FLOAT, _INT_TYPE = 1, 2  # TensorProto.FLOAT, AttributeProto.INT
# What a convolution must say of itself to be one of ours; an absent attribute has the standard's default.
_WANTED = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": [1]}
_DEFAULTS = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": [1]}


@dataclass(frozen=True)
class _Node:
    operator: str
    domain: str
    name: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    attributes: dict[str, list[int]]
    has_other: bool  # an attribute that is neither a whole number nor a list of them


@dataclass(frozen=True)
class Rewritten:
    """A model in memory.

    Attributes:
        content: Its bytes, large weights left out.
        folder: Where the files are that hold those; for :data:`FOLDER_ENTRY`.
    """

    content: bytes
    folder: str


def with_fast_convolutions(path: str | os.PathLike[str]) -> Rewritten | None:
    """Returns the model with ``freqfusion::Convolve3x3`` for each convolution it can do, or None if there is none.

    That is: 3 x 3, stride 1, a border of one zero, fp32 weights that are constants, a bias that is one or none,
    and at least ``MIN_CHANNELS`` channels on both sides. A Relu that alone reads the result goes into it.

    Raises:
        ValueError: If the file is not a protobuf message, or has a name that is no UTF-8.
    """
    # ONNX Runtime reads no file that a link leads to out of the folder, as caches of downloads have them.
    folder, name = os.path.split(os.path.abspath(path) if external_files(path) else os.path.realpath(path))
    with mapped_message(path) as whole:
        if not _imports_domain(whole):
            return None
        parts: list[bytes] = []
        for number, content in message_fields(whole):
            if number == _MODEL_GRAPH and isinstance(content, memoryview):
                graph = _rewrite(content, whole, name.encode())
                if graph is None:
                    return None
                parts += [header(number, sum(map(len, graph))), *graph]
            else:
                parts.append(field(number, content))
        return Rewritten(b"".join(parts), folder)


def _imports_domain(model: memoryview) -> bool:
    wanted = DOMAIN.encode()
    return any(
        bytes(domain) == wanted
        for number, opset in message_fields(model)
        if number == _MODEL_OPSET and isinstance(opset, memoryview)
        for field, domain in message_fields(opset)
        if field == _OPSET_DOMAIN and isinstance(domain, memoryview)
    )


def _rewrite(graph: memoryview, file: memoryview, name: bytes) -> list[bytes] | None:
    nodes = [_read(content) for content in messages(graph, _GRAPH_NODE)]
    shapes = dict(_fp32_shapes(graph))
    uses = Counter(name for node in nodes for name in node.inputs)
    uses.update(bytes(name) for output in messages(graph, _GRAPH_OUTPUT) for name in messages(output, _VALUE_NAME))
    relus = {node.inputs[0]: i for i, node in enumerate(nodes) if (node.domain, node.operator) == ("", "Relu")}
    written: dict[int, bytes] = {}
    for i, node in enumerate(nodes):
        if not _is_ours(node, shapes):
            continue
        relu = relus.get(node.outputs[0]) if uses[node.outputs[0]] == 1 else None
        written[i] = _write(node, node.outputs[0] if relu is None else nodes[relu].outputs[0], relu is not None)
        if relu is not None:
            written[relu] = b""
    if not written:
        return None
    factors = packed_factors((node.operator, node.inputs) for node in nodes)
    parts: list[bytes] = []
    place = 0
    for number, content in message_fields(graph):
        left = None
        if number == _GRAPH_NODE:
            left = written.get(place)
            place += 1
        elif number == _GRAPH_INITIALIZER and isinstance(content, memoryview) and _name_of(content) in factors:
            tensor = left_in_file(content, file, name)
            left = None if tensor is None else field(number, tensor)
        parts.append(field(number, content) if left is None else left)
    return parts


def _name_of(tensor: memoryview) -> bytes:
    return next((bytes(name) for name in messages(tensor, _TENSOR_NAME)), b"")


def _is_ours(node: _Node, shapes: dict[bytes, list[int]]) -> bool:
    if (node.domain, node.operator, node.has_other) != ("", "Conv", False) or not 2 <= len(node.inputs) <= 3:
        return False
    weights, *biases = (shapes.get(name, []) for name in node.inputs[1:])
    if len(weights) != 4 or weights[2:] != [3, 3] or min(weights[:2]) < MIN_CHANNELS:
        return False
    if any(bias != weights[:1] for bias in biases):
        return False
    return all(node.attributes.get(name, _DEFAULTS[name]) == value for name, value in _WANTED.items())


def _fp32_shapes(graph: memoryview) -> Iterator[tuple[bytes, list[int]]]:
    for tensor in messages(graph, _GRAPH_INITIALIZER):
        dims: list[int] = []
        name, dtype = b"", 0
        for number, content in message_fields(tensor):
            if number == _TENSOR_DIMS:
                dims += whole_numbers(content)
            elif number == _TENSOR_DTYPE and isinstance(content, int):
                dtype = content
            elif number == _TENSOR_NAME and isinstance(content, memoryview):
                name = bytes(content)
        if dtype == _FLOAT:
            yield name, dims


def _read(node: memoryview) -> _Node:
    texts = {_NODE_OP_TYPE: b"", _NODE_DOMAIN: b"", _NODE_NAME: b""}
    tensors: dict[int, list[bytes]] = {_NODE_INPUT: [], _NODE_OUTPUT: []}
    attributes: dict[str, list[int]] = {}
    has_other = False
    for number, content in message_fields(node):
        if not isinstance(content, memoryview):
            continue
        if number in tensors:
            tensors[number].append(bytes(content))
        elif number in texts:
            texts[number] = bytes(content)
        elif number == _NODE_ATTRIBUTE:
            name, values = _read_attribute(content)
            has_other |= values is None
            attributes[name] = values or []
    return _Node(
        texts[_NODE_OP_TYPE].decode("utf-8", "replace"),
        texts[_NODE_DOMAIN].decode("utf-8", "replace"),
        texts[_NODE_NAME],
        tuple(tensors[_NODE_INPUT]),
        tuple(tensors[_NODE_OUTPUT]),
        attributes,
        has_other,
    )


def _read_attribute(attribute: memoryview) -> tuple[str, list[int] | None]:
    """The attribute's whole numbers; None if it holds something else, but for the usual ``auto_pad``."""
    name, values, other = "", list[int](), False
    for number, content in message_fields(attribute):
        if number == _ATTRIBUTE_NAME and isinstance(content, memoryview):
            name = bytes(content).decode("utf-8", "replace")
        elif number in (_ATTRIBUTE_INT, _ATTRIBUTE_INTS):
            values += whole_numbers(content)
        elif number == _ATTRIBUTE_TEXT and isinstance(content, memoryview):
            other |= bytes(content) != b"NOTSET"
        elif number == _ATTRIBUTE_GRAPH:
            other = True
    return name, None if other else values


def _write(node: _Node, output: bytes, relu: bool) -> bytes:
    attribute = field(_ATTRIBUTE_NAME, b"relu") + field(_ATTRIBUTE_INT, int(relu))
    attribute += field(_ATTRIBUTE_TYPE, _INT_TYPE)
    content = b"".join(field(_NODE_INPUT, name) for name in node.inputs)
    content += field(_NODE_OUTPUT, output) + field(_NODE_NAME, node.name)
    content += field(_NODE_OP_TYPE, OPERATOR.encode()) + field(_NODE_ATTRIBUTE, attribute)
    return field(_GRAPH_NODE, content + field(_NODE_DOMAIN, DOMAIN.encode()))
