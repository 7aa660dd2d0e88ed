# SPDX-License-Identifier: Apache-2.0
"""Writes a half type into an fp32 network, all but the nodes that are to stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from freqfusion_export.errors import ExportError
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN

ISLAND_KEY = "freqfusion.island"  # on every node that is kept in fp32: the island's name
TYPE_AGNOSTIC = frozenset(
    {
        "Carafe",
        "AdaptiveFilter",
        "DeformableAttention",
        "LocalSimilarity",
        "OffsetResample",
        "PyramidRoiAlign",
        "QueryArgmax",
        "ResizeArgmax",
    }
)
"""FreqFusion operators that take any float type and compute in fp32 inside; all others are fp32 at their edges too."""
CAST_KEY = "freqfusion.cast"  # on casts written here; the widening pass takes them out again
FLOAT = ir.DataType.FLOAT
HALF_TYPES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
SUFFIXES = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16", FLOAT: "fp32"}

# Rearranges what it is given: takes the type of its data, so that no cast pair is wrapped around a reshape.
# fmt: off
MOVEMENT = frozenset((
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
))
# fmt: on
# Any float type is as good, and none comes out.
_INDIFFERENT = frozenset({"Shape", "Size", "Cast", "IsNaN"})
# Floats made of nothing or of integers are positions, sizes and constants: few, and exact in fp32 only.
_MAKERS = frozenset({"Constant", "ConstantOfShape", "Range", "EyeLike", "RandomNormal", "RandomUniform"})
# Inputs that the operator wants in fp32 whatever the data's type.
_FP32_INPUTS = {"Resize": {1, 2}, "NonMaxSuppression": {3, 4}, "PyramidRoiAlign": {4}}
# bfloat16 is allowed for convolutions and normalisations from this opset on only.
BF16_OPSET = 22
FP32_OPSET = 18  # what networks are traced at


class AssignPrecisionPass(ir.passes.InPlacePass):
    """Turns every float node to ``dtype`` but those of ``islands``; inputs and outputs of the network stay fp32.

    A value has one type, that of the node that computes it, and at most one cast to the other, right behind it and
    shared by all readers. Nodes that only move data take the type they are given. So no cast undoes another.

        Before: y = Softmax(Conv(x, w))                   x, w, y float
        After:  y = Softmax(Cast<float>(Conv(Cast<float16>(x), w)))     w float16; Softmax labelled with its island

    Args:
        dtype: ``FLOAT16`` or ``BFLOAT16``. For the latter the opset becomes 22, the first that knows it for Conv.
        islands: Name of the island by node, for nodes that stay in fp32.

    Raises:
        ExportError: For a bf16 model with GridSample, which TensorRT misreads at the opset that bf16 needs.
    """

    def __init__(self, dtype: ir.DataType, islands: Mapping[ir.Node, str]) -> None:
        super().__init__()
        self.dtype = dtype
        self.islands = islands

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        if any(value.dtype == self.dtype for node in graph for value in node.outputs):
            return ir.passes.PassResult(model, modified=False)
        if self.dtype == ir.DataType.BFLOAT16:
            raise_opset(model, BF16_OPSET, "bf16")
        for value in graph.initializers.values():
            if value.type is None and value.const_value is not None:
                value.type, value.shape = (
                    ir.TensorType(value.const_value.dtype),
                    ir.Shape(value.const_value.numpy().shape),
                )
        if any(value.dtype is None for node in graph for value in node.outputs):
            ShapeInferencePass()(model)
        for node, name in self.islands.items():
            node.metadata_props[ISLAND_KEY] = name
        outputs = _OutputNames(graph)
        types = self._node_types(graph)
        constants = _Constants(graph)
        casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        for node in list(graph):
            wanted = types.get(node)
            if wanted is None:
                continue
            for index, source in enumerate(node.inputs):
                if source is None or source.dtype not in (FLOAT, self.dtype):
                    continue
                target = FLOAT if index in _FP32_INPUTS.get(node.op_type, ()) else wanted
                if source.const_value is not None and source.name in graph.initializers:
                    node.replace_input_with(index, constants.typed(source, target))
                elif source.dtype != target:
                    node.replace_input_with(index, _cast(graph, casts, source, target))
            for value in node.outputs:
                if value.dtype == FLOAT and wanted != FLOAT:
                    value.type = ir.TensorType(wanted)
        _keep_captures(graph, casts)
        outputs.restore(casts)
        constants.drop_unused()
        return ir.passes.PassResult(model, modified=True)

    def _node_types(self, graph: ir.Graph) -> dict[ir.Node, ir.DataType]:
        """The type each float node computes in; nodes that are indifferent are left out."""
        nodes = list(graph)
        types = {node: self._own_type(node) for node in nodes if not _is_indifferent(node)}
        wanted: dict[ir.Node, ir.DataType] = {}
        for node in reversed(nodes):
            if node in types and _moves(node) and node not in self.islands:
                readers = [types[use.node] for out in node.outputs for use in out.uses() if use.node in types]
                is_fp32 = all(kind == FLOAT for kind in readers)
                types[node] = wanted[node] = FLOAT if is_fp32 else self.dtype
        for node in nodes:
            if node in wanted:
                sources = {_native(value, types) for value in node.inputs if value is not None} - {None}
                if sources == {self.dtype}:
                    types[node] = self.dtype
        return types

    def _own_type(self, node: ir.Node) -> ir.DataType:
        has_body = any(isinstance(attribute.value, ir.Graph) for attribute in node.attributes.values())
        is_foreign = node.domain != "" and (node.domain != DOMAIN or node.op_type not in TYPE_AGNOSTIC)
        stays = node in self.islands or has_body or is_foreign or node.op_type in _MAKERS
        return FLOAT if stays else self.dtype


def _is_indifferent(node: ir.Node) -> bool:
    """Whether a node has no float input or output, or takes any float type and gives none of its own."""
    if node.domain == "" and node.op_type in _INDIFFERENT:
        return True
    values = [*node.inputs, *node.outputs]
    return not any(value is not None and value.dtype == FLOAT for value in values)


def _moves(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in MOVEMENT


def _native(value: ir.Value, types: Mapping[ir.Node, ir.DataType]) -> ir.DataType | None:
    """The float type a value will have; None for constants and other kinds."""
    producer = value.producer()
    if value.dtype != FLOAT or (producer is None and not value.is_graph_input()):
        return None
    return FLOAT if producer is None else types.get(producer, FLOAT)


def _cast(
    graph: ir.Graph, casts: dict[tuple[ir.Value, ir.DataType], ir.Value], value: ir.Value, dtype: ir.DataType
) -> ir.Value:
    """The value in another float type, by a cast right behind whatever computes it."""
    if (value, dtype) not in casts:
        name = f"{value.name}_as_{SUFFIXES[dtype]}"
        node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"cast_{name}")
        node.metadata_props[CAST_KEY] = SUFFIXES[dtype]
        output = node.outputs[0]
        output.name, output.shape, output.type = name, value.shape, ir.TensorType(dtype)
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        casts[value, dtype] = output
    return casts[value, dtype]


def _keep_captures(graph: ir.Graph, casts: dict[tuple[ir.Value, ir.DataType], ir.Value]) -> None:
    """Gives fp32 to the nodes of subgraphs, which stay in fp32 and read values of this graph without naming them."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.graph is graph:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.graph is graph and value.dtype in HALF_TYPES:
                node.replace_input_with(index, _cast(graph, casts, value, FLOAT))


class _Constants:
    """The graph's constants, converted where a node of the half type reads them."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._made: dict[tuple[str, ir.DataType], ir.Value] = {}

    def typed(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Returns the constant in another float type."""
        if value.dtype == dtype:
            return value
        assert value.name is not None
        assert value.const_value is not None
        if (value.name, dtype) not in self._made:
            name = f"{value.name}_as_{SUFFIXES[dtype]}"
            array = value.const_value.numpy().astype(numpy_type(dtype))
            made = ir.Value(
                name=name,
                shape=value.shape,
                type=ir.TensorType(dtype),
                const_value=ir.Tensor(array, dtype=dtype, name=name),
            )
            self.graph.register_initializer(made)
            self._made[value.name, dtype] = made
        return self._made[value.name, dtype]

    def drop_unused(self) -> None:
        """Removes constants whose every reader took the converted one."""
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]


class _OutputNames:
    """Keeps the network's outputs in fp32 under their names."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def restore(self, casts: dict[tuple[ir.Value, ir.DataType], ir.Value]) -> None:
        """Casts outputs that became half back, and gives the cast the output's name."""
        for index, value in enumerate(list(self.graph.outputs)):
            if value.dtype not in HALF_TYPES:
                continue
            wide = _cast(self.graph, casts, value, FLOAT)
            wide.name, value.name = value.name, f"{value.name}_as_{SUFFIXES[value.dtype]}"
            self.graph.outputs[index] = wide


def numpy_type(dtype: ir.DataType) -> np.dtype[Any]:
    """numpy's type of a half type, or of fp32."""
    kinds: dict[ir.DataType, Any] = {ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16}
    kind: np.dtype[Any] = np.dtype(kinds.get(dtype, np.float32))
    return kind


def count_casts(nodes: Collection[ir.Node]) -> int:
    """Counts the casts written here."""
    return sum(CAST_KEY in node.metadata_props for node in nodes)


def raise_opset(model: ir.Model, opset: int, precision: str) -> None:
    """Declares the opset that a type needs. No operator of these graphs changed its meaning from 18 to 22.

    Raises:
        ExportError: If that is one at which TensorRT misreads an operator of the network.
    """
    bodies = (node for function in model.functions.values() for node in function)
    if opset >= 20 and any(
        n.op_type == "GridSample" for n in (*ir.traversal.RecursiveGraphIterator(model.graph), *bodies)
    ):
        raise ExportError(
            f"{precision} needs opset {opset}, at which TensorRT reads GridSample as nearest, and the model has one; "
            "export it as fp16 or fp32"
        )
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        if "" in imports:
            imports[""] = max(imports[""], opset)
