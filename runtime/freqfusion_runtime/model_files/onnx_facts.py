# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file holds, read without the onnx package and without touching weights."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, TensorSpec
from freqfusion_runtime.model_files.onnx_nodes import MOST_NESTED, mapped_message, message_fields, signed, whole_numbers

# Field numbers of onnx.proto.
_MODEL = {"producer": 2, "producer_version": 3, "graph": 7, "opset": 8, "metadata": 14, "function": 25}
_GRAPH = {"node": 1, "initializer": 5, "input": 11, "output": 12}
_NODE = {"output": 2, "name": 3, "op_type": 4, "attribute": 5, "domain": 7}
_FUNCTION = {"name": 1, "node": 7, "opset": 9, "domain": 10}
_SUBGRAPHS = (6, 11)  # of an attribute
_MOST_DIMENSIONS = 64  # of a tensor; numpy takes no more

# TensorProto.DataType
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
    17: "float8e4m3fn",
    19: "float8e5m2",
}


@dataclass(frozen=True)
class NodeFacts:
    """One node, wherever it is; ``function`` is the function body that holds it, empty for the main graph."""

    name: str
    operator: str
    domain: str
    function: str
    opset: int


@dataclass
class OnnxFacts:
    """A model's tensors, nodes and metadata.

    Attributes:
        inputs, outputs: Of the main graph, initialisers left out.
        nodes: Of the main graph, its subgraphs, and all function bodies.
        opsets: Version of each domain.
        metadata: The model's key-value pairs.
        weights: Number of initialiser elements of each dtype.
        producer: Program that wrote the file, and its version.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    nodes: list[NodeFacts] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    weights: Counter[str] = field(default_factory=Counter)
    producer: str = ""

    @property
    def main_nodes(self) -> list[NodeFacts]:
        """Nodes of the main graph."""
        return [node for node in self.nodes if not node.function]

    def manifest(self, source: str) -> Manifest:
        """Reads the manifest in the metadata.

        Raises:
            ModelFileError: If there is none.
            ManifestError: If it is damaged.
        """
        if METADATA_KEY not in self.metadata:
            raise ModelFileError(
                f"{source} is an ONNX model without a FreqFusion manifest (metadata key {METADATA_KEY!r}). "
                "Use a file written by `freqfusion export`."
            )
        return Manifest.from_json(self.metadata[METADATA_KEY], source=source)

    def misread_nodes(self) -> list[str]:
        """GridSample nodes of opset 20 or later: TensorRT's parser does not know the new name of ``bilinear``."""
        return [
            f"{node.name or 'without a name'}{f' in {node.function}' if node.function else ''} (opset {node.opset})"
            for node in self.nodes
            if node.operator == "GridSample" and node.domain in ("", "ai.onnx") and node.opset >= 20
        ]


def read_onnx_facts(path: str | os.PathLike[str]) -> OnnxFacts:
    """Reads a model file.

    Raises:
        ModelFileError: If it does not exist or is no ONNX model.
    """
    path = Path(path)
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise ModelFileError(f"{path} {reason}. Name an ONNX file written by `freqfusion export`.")
    try:
        with mapped_message(path) as whole:
            facts = _model(whole)
    except ValueError as e:
        raise ModelFileError(f"{path} is no ONNX model ({e}). Write it again with `freqfusion export`.") from e
    if not facts.nodes:
        raise ModelFileError(f"{path} is no ONNX model: it has no nodes. Write it again with `freqfusion export`.")
    return facts


def _model(message: memoryview) -> OnnxFacts:
    facts = OnnxFacts(opsets=_opsets(message, _MODEL["opset"]))
    for number, part in _parts(message):
        if number == _MODEL["metadata"]:
            texts = _texts(part, (1, 2))
            facts.metadata[texts.get(1, "")] = texts.get(2, "")
        elif number == _MODEL["graph"]:
            _graph(part, facts)
        elif number == _MODEL["function"]:
            texts = _texts(part, (_FUNCTION["name"], _FUNCTION["domain"]))
            name = f"{texts.get(_FUNCTION['domain'], '')}::{texts.get(_FUNCTION['name'], '')}"
            opsets = _opsets(part, _FUNCTION["opset"])
            for inner, node in _parts(part):
                if inner == _FUNCTION["node"]:
                    facts.nodes += _nodes(node, name, opsets)
    texts = _texts(message, (_MODEL["producer"], _MODEL["producer_version"]))
    facts.producer = " ".join(filter(None, (texts.get(2, ""), texts.get(3, ""))))
    return facts


def _graph(message: memoryview, facts: OnnxFacts) -> None:
    initialisers = set()
    inputs, outputs = [], []
    for number, part in _parts(message):
        if number == _GRAPH["node"]:
            facts.nodes += _nodes(part, "", facts.opsets)
        elif number == _GRAPH["initializer"]:
            name, dtype, elements = _initialiser(part)
            initialisers.add(name)
            facts.weights[dtype] += elements
        elif number == _GRAPH["input"]:
            inputs.append(_tensor(part))
        elif number == _GRAPH["output"]:
            outputs.append(_tensor(part))
    facts.outputs += tuple(outputs)
    facts.inputs = tuple(spec for spec in inputs if spec.name not in initialisers)


def _nodes(message: memoryview, function: str, opsets: dict[str, int], depth: int = 0) -> Iterator[NodeFacts]:
    if depth > MOST_NESTED:
        raise ValueError(f"it has graphs inside each other, more than {MOST_NESTED} deep")
    texts = _texts(message, (_NODE["output"], _NODE["name"], _NODE["op_type"], _NODE["domain"]))
    domain = texts.get(_NODE["domain"], "")
    name = texts.get(_NODE["name"]) or texts.get(_NODE["output"], "")
    version = opsets.get("" if domain == "ai.onnx" else domain, 0)
    yield NodeFacts(name, texts.get(_NODE["op_type"], ""), domain, function, version)
    for number, attribute in _parts(message):
        if number == _NODE["attribute"]:
            for kind, subgraph in _parts(attribute):
                if kind in _SUBGRAPHS:
                    for inner, node in _parts(subgraph):
                        if inner == _GRAPH["node"]:
                            yield from _nodes(node, function, opsets, depth + 1)


def _tensor(message: memoryview) -> TensorSpec:
    name, dtype, shape = _texts(message, (1,)).get(1, ""), "unknown", []
    for type_message in _within(message, 2, 1):
        for number, value in message_fields(type_message):
            if number == 1 and isinstance(value, int):
                dtype = DTYPES.get(value, f"type {value}")
        for dimension in _within(type_message, 2, 1):
            side: int | str = "?"
            for number, value in message_fields(dimension):
                if number == 1 and isinstance(value, int):
                    side = signed(value)
                elif number == 2 and isinstance(value, memoryview):
                    side = bytes(value).decode("utf-8")
            shape.append(side)
    return TensorSpec(name, dtype, tuple(shape))


def _initialiser(message: memoryview) -> tuple[str, str, int]:
    name, dtype = "", "unknown"
    dimensions: list[int] = []
    for number, value in message_fields(message):
        if number == 1:
            dimensions += whole_numbers(value)
            if len(dimensions) > _MOST_DIMENSIONS or min(dimensions, default=0) < 0:
                raise ValueError(f"it has a tensor of more than {_MOST_DIMENSIONS} dimensions, or of a negative one")
        elif number == 2 and isinstance(value, int):
            dtype = DTYPES.get(value, f"type {value}")
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8")
    return name, dtype, math.prod(dimensions)


def _opsets(message: memoryview, field_number: int) -> dict[str, int]:
    opsets = {}
    for number, part in _parts(message):
        if number == field_number:
            version = next((v for n, v in message_fields(part) if n == 2 and isinstance(v, int)), 0)
            domain = _texts(part, (1,)).get(1, "")
            opsets["" if domain == "ai.onnx" else domain] = version
    return opsets


def _parts(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, value in message_fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _within(message: memoryview, first: int, second: int) -> Iterator[memoryview]:
    """Yields the parts numbered ``second`` of the parts numbered ``first``."""
    for number, part in _parts(message):
        if number == first:
            for inner, value in _parts(part):
                if inner == second:
                    yield value


def _texts(message: memoryview, wanted: tuple[int, ...]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for number, value in _parts(message):
        if number in wanted:
            texts.setdefault(number, bytes(value).decode("utf-8"))
    return texts
