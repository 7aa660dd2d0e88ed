# SPDX-License-Identifier: Apache-2.0
"""Lists the nodes of an ONNX file without the onnx package, which a machine that only runs models does not need."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass

DOMAIN = "freqfusion"  # of our operators

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 2, 3, 4, 5, 7
_ATTRIBUTE_NAME = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types


@dataclass(frozen=True)
class NodeEntry:
    """One node of the main graph.

    Attributes:
        name, operator, domain: As in the file.
        output: The name of its first output, which is unique in the graph.
        attributes: Their names.
    """

    name: str
    operator: str
    domain: str
    output: str
    attributes: tuple[str, ...] = ()


def list_nodes(path: str | os.PathLike[str]) -> list[NodeEntry]:
    """Reads the nodes of a model's main graph in their order, skipping over weights.

    Raises:
        ValueError: If the file is not a protobuf message.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        whole = memoryview(data)
        try:
            return [
                _node(node)
                for field, graph in message_fields(whole)
                if field == _MODEL_GRAPH and isinstance(graph, memoryview)
                for number, node in message_fields(graph)
                if number == _GRAPH_NODE and isinstance(node, memoryview)
            ]
        except IndexError as e:
            raise ValueError(f"{os.fspath(path)!r} is not a protobuf message: it ends inside a field") from e
        finally:
            whole.release()


def _node(message: memoryview) -> NodeEntry:
    texts: dict[int, str] = {}
    attributes: list[str] = []
    for field, value in message_fields(message):
        if not isinstance(value, memoryview):
            continue
        if field in (_NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_DOMAIN):
            texts.setdefault(field, _text(value))
        elif field == _NODE_ATTRIBUTE:
            attributes += [_text(name) for name in messages(value, _ATTRIBUTE_NAME)]
    name, operator, domain, output = (texts.get(f, "") for f in (_NODE_NAME, _NODE_OP_TYPE, _NODE_DOMAIN, _NODE_OUTPUT))
    return NodeEntry(name, operator, domain, output, tuple(attributes))


def _text(content: memoryview) -> str:
    return bytes(content).decode("utf-8", "replace")


def messages(message: memoryview, field: int) -> Iterator[memoryview]:
    """Yields the contents of one field, wherever it is in the message; errors as :func:`message_fields`."""
    for number, content in message_fields(message):
        if number == field and isinstance(content, memoryview):
            yield content


def message_fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yields the number and content of each field of a protobuf message: bytes or a whole number; steps over others.

    Raises:
        IndexError: If the message ends inside a field.
        ValueError: If it is no message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == _VARINT:
            number, at = _varint(message, at)
            yield key >> 3, number
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire == _BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise IndexError
            with message[at : at + length] as content:
                yield key >> 3, content
            at += length
        else:
            raise ValueError(f"is not a protobuf message: wire type {wire} at byte {at}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
