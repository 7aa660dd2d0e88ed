# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file grows to when it is opened, found before an engine is given it: nodes, and bytes of constants.

A function body can call another one twice, and that one a third: each call is put in place, so 30 bodies of two nodes
make a billion. A node of a few bytes can name the shape of a terabyte. What depends on a picture is not known here.
"""

from __future__ import annotations

import os
from collections import ChainMap, Counter
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from freqfusion_runtime.errors import MORE_MEMORY, ModelFileError, ran_out_of_memory
from freqfusion_runtime.model_files.constant_shapes import (
    Constant,
    Shape,
    element_count,
    output_of,
    read_tensor,
)
from freqfusion_runtime.model_files.external_data import check_external_files
from freqfusion_runtime.model_files.onnx_nodes import MOST_NESTED, mapped_message, message_fields, signed, whole_numbers

MOST_NODES = 1_000_000
"""With every function body in place; an exported detector has some 20,000."""
MOST_BYTES = 1 << 30
"""Of all constants that nodes compute or sparse tensors spread out to, eight bytes an element, beside :data:`TIMES`."""
TIMES = 16
"""So many times what the file holds may be computed of it, such as weights in another type."""
_ELEMENT_BYTES = 8
_ELEMENTS_IN_A_BYTE = 8  # of the narrowest type there is, with room

# Field numbers of onnx.proto.
_MODEL = {"graph": 7, "function": 25}
_GRAPH = {"node": 1, "initializer": 5, "sparse": 15}
_FUNCTION = {"name": 1, "node": 7, "domain": 10}
_NODE = {"input": 1, "output": 2, "op_type": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE = {"name": 1, "i": 3, "t": 5, "g": 6, "ints": 8, "graphs": 11, "sparse": 22}
_SPARSE_VALUES, _SPARSE_DIMS = 1, 3
_TENSOR_NAME = 8

Scope = MutableMapping[bytes, Constant]
_Key = tuple[bytes, bytes]  # a function's domain and name


@dataclass
class _Total:
    """Of a graph or a function body without what it calls.

    Attributes:
        nodes: Those of its inner graphs included.
        bytes: Of the constants that its nodes compute.
        calls: How often it calls what; standard operators are in it, too.
        largest: The node that makes the largest constant, in words.
    """

    nodes: int = 0
    bytes: int = 0
    calls: Counter[_Key] = field(default_factory=Counter)
    largest: str = ""
    largest_bytes: int = 0

    def add_constant(self, shape: Shape, what: str) -> None:
        size = _ELEMENT_BYTES * element_count(shape)
        self.bytes += size
        if size > self.largest_bytes:
            self.largest, self.largest_bytes = f"{what} of shape {shape}", size


def check_growth(path: str | os.PathLike[str]) -> None:
    """Makes sure that a model stays within bounds when it is opened, in time linear in its size.

    Raises:
        ModelFileError: If the file is no ONNX model, would grow beyond :data:`MOST_NODES` or :data:`MOST_BYTES`, or a
            file with its weights is missing.
    """
    path = Path(path)
    try:
        with mapped_message(path) as whole:
            main, functions = _totals(whole)
    except ValueError as e:
        raise ModelFileError(f"{path} is no ONNX model ({e}). Write it again with `freqfusion export`.") from e
    except OSError as e:
        if ran_out_of_memory(e):
            raise ModelFileError(f"{path} cannot be opened: the machine ran out of memory. {MORE_MEMORY}") from e
        raise ModelFileError(f"{path} cannot be read: {(e.strerror or str(e)).lower()}. Check its rights.") from e
    limit = MOST_BYTES + TIMES * sum(file.stat().st_size for file in (path, *check_external_files(path)))
    nodes, size = _with_calls(path, main, functions, limit)
    if nodes > MOST_NODES:
        raise ModelFileError(
            f"{path} grows to more than {MOST_NODES} nodes when its function bodies are put in place. "
            "Write it again with `freqfusion export`."
        )
    if size > limit:
        largest = max([main, *functions.values()], key=lambda total: total.largest_bytes)
        raise ModelFileError(
            f"{path} computes constants of more than {limit >> 20} MiB when it is opened, the largest by "
            f"{largest.largest}. Write it again with `freqfusion export`."
        )


def _totals(model: memoryview) -> tuple[_Total, dict[_Key, _Total]]:
    main, functions = _Total(), dict[_Key, _Total]()
    for number, part in message_fields(model):
        if not isinstance(part, memoryview):
            continue
        if number == _MODEL["graph"]:
            _add_graph(part, {}, main, 0)
        elif number == _MODEL["function"]:
            texts = _bytes_of(part, (_FUNCTION["name"], _FUNCTION["domain"]))
            total = functions.setdefault((texts[_FUNCTION["domain"]], texts[_FUNCTION["name"]]), _Total())
            _add_nodes(part, _FUNCTION["node"], {}, total, 0)
    return main, functions


def _with_calls(path: Path, main: _Total, functions: dict[_Key, _Total], limit: int) -> tuple[int, int]:
    """Nodes and bytes of the main graph with every body in place, no further than just beyond the bounds."""
    waiting = {key: sum(callee in functions for callee in total.calls) for key, total in functions.items()}
    callers: dict[_Key, list[_Key]] = {key: [] for key in functions}
    for key, total in functions.items():
        for callee in total.calls:
            if callee in functions:
                callers[callee].append(key)
    whole: dict[_Key, tuple[int, int]] = {}

    def put_in_place(total: _Total) -> tuple[int, int]:
        nodes, size = total.nodes, total.bytes
        for callee, times in total.calls.items():
            if callee in whole:
                nodes, size = nodes + times * whole[callee][0], size + times * whole[callee][1]
        return min(nodes, MOST_NODES + 1), min(size, limit + 1)

    ready = [key for key, count in waiting.items() if count == 0]
    while ready:
        key = ready.pop()
        whole[key] = put_in_place(functions[key])
        for caller in callers[key]:
            waiting[caller] -= 1
            if waiting[caller] == 0:
                ready.append(caller)
    if len(whole) < len(functions):
        domain, name = next(key for key in functions if key not in whole)
        raise ModelFileError(
            f"{path} has a function body that calls itself, "
            f"{domain.decode('utf-8', 'replace')[:80]}::{name.decode('utf-8', 'replace')[:80]}. "
            "Write it again with `freqfusion export`."
        )
    return put_in_place(main)


def _add_graph(graph: memoryview, outer: Scope, total: _Total, depth: int) -> None:
    if depth > MOST_NESTED:
        raise ValueError(f"it has graphs inside each other, more than {MOST_NESTED} deep")
    own: dict[bytes, Constant] = {}
    for number, part in message_fields(graph):
        if not isinstance(part, memoryview):
            continue
        if number == _GRAPH["initializer"]:
            name, constant = _initialiser(part)
            own[name] = constant
        elif number == _GRAPH["sparse"]:
            name, shape = _sparse(part)
            own[name] = Constant(shape)
            total.add_constant(shape, "a sparse tensor")
    # A graph sees what is around it; ChainMap looks in as many places as it lies deep, which is bounded.
    _add_nodes(graph, _GRAPH["node"], ChainMap(own, outer), total, depth)


def _add_nodes(holder: memoryview, field_number: int, scope: Scope, total: _Total, depth: int) -> None:
    for number, part in message_fields(holder):
        if number == field_number and isinstance(part, memoryview):
            _add_node(part, scope, total, depth)


def _add_node(node: memoryview, scope: Scope, total: _Total, depth: int) -> None:
    total.nodes += 1
    inputs, output, attributes = list[bytes](), b"", dict[bytes, Constant]()
    texts = _bytes_of(node, (_NODE["op_type"], _NODE["domain"]))
    for number, part in message_fields(node):
        if not isinstance(part, memoryview):
            continue
        if number == _NODE["input"]:
            inputs.append(_name(part))
        elif number == _NODE["output"]:
            output = output or _name(part)
        elif number == _NODE["attribute"]:
            for name, constant in _attribute(part, scope, total, depth):
                attributes[name] = constant
    domain, operator = texts[_NODE["domain"]], texts[_NODE["op_type"]]
    total.calls[domain, operator] += 1
    if domain not in (b"", b"ai.onnx"):
        return
    result = output_of(operator.decode("utf-8", "replace"), [scope.get(name) for name in inputs], attributes)
    if result is None:
        return
    if output:
        scope[output] = result
    if operator != b"Constant":  # which is in the file
        total.add_constant(result.shape, operator.decode("utf-8", "replace")[:80])


def _attribute(message: memoryview, scope: Scope, total: _Total, depth: int) -> Iterator[tuple[bytes, Constant]]:
    name, numbers, tensor = b"", list[int](), None
    for number, part in message_fields(message):
        if isinstance(part, int):
            if number in (_ATTRIBUTE["i"], _ATTRIBUTE["ints"]):
                numbers.append(signed(part))
        elif number == _ATTRIBUTE["name"]:
            name = bytes(part)
        elif number == _ATTRIBUTE["ints"]:
            numbers += whole_numbers(part)
        elif number == _ATTRIBUTE["t"]:
            tensor = _initialiser(part)[1]
        elif number == _ATTRIBUTE["sparse"]:
            shape = _sparse(part)[1]
            tensor = Constant(shape)
            total.add_constant(shape, "a sparse tensor")
        elif number in (_ATTRIBUTE["g"], _ATTRIBUTE["graphs"]):
            _add_graph(part, scope, total, depth + 1)
    if tensor is not None:
        yield name, tensor
    elif numbers:
        yield name, Constant((len(numbers),), tuple(numbers))


def _initialiser(message: memoryview) -> tuple[bytes, Constant]:
    """A tensor's name and what is known of it.

    Raises:
        ValueError: If it says that it has more elements than its bytes can hold.
    """
    tensor = read_tensor(message)
    count = element_count(tensor.constant.shape)
    if not tensor.is_external and count > _ELEMENTS_IN_A_BYTE * len(message):
        raise ValueError(
            f"its tensor {tensor.name.decode('utf-8', 'replace')[:80]!r} has {len(message)} bytes for {count} elements"
        )
    return tensor.name, tensor.constant


def _sparse(message: memoryview) -> tuple[bytes, Shape]:
    name, dimensions = b"", list[int]()
    for number, part in message_fields(message):
        if number == _SPARSE_DIMS:
            dimensions += whole_numbers(part)
        elif number == _SPARSE_VALUES and isinstance(part, memoryview):
            name = read_tensor(part).name
    return name, tuple(dimensions)


def _bytes_of(message: memoryview, wanted: tuple[int, ...]) -> dict[int, bytes]:
    """The last of each field that is text, empty where there is none."""
    found = dict.fromkeys(wanted, b"")
    for number, part in message_fields(message):
        if number in found and isinstance(part, memoryview):
            found[number] = _name(part)
    return found


def _name(part: memoryview) -> bytes:
    """A name's bytes.

    Raises:
        ValueError: If it is no UTF-8, of which ONNX Runtime could not even tell.
    """
    name = bytes(part)
    name.decode()
    return name
