# SPDX-License-Identifier: Apache-2.0
"""Writes 8-bit types into an fp32 network as pairs of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from freqfusion_export.passes.assign_precision import raise_opset

FP8_OPSET = 19  # the first with 8-bit floats; GridSample still means what TensorRT reads (up to 19)
FP8_LARGEST = 448.0  # of E4M3FN


@dataclass(frozen=True)
class Scale:
    """How a tensor's numbers are stored: ``value = (stored - zero_point) * scale``.

    Attributes:
        scale: Positive.
        zero_point: 0 but for unsigned integers.
    """

    scale: float
    zero_point: int = 0


class InsertQuantizationPass(ir.passes.InPlacePass):
    """Puts quantised tensors before convolutions, so that runtimes compute them in 8 bits.

        Before: y = Conv(x, w, b)
        After:  y = Conv(DQ(Q(x, s, z)), DQ(w8, t[channel]), b)         and with ``outputs``: DQ(Q(y)) for its readers

    Weights are stored in 8 bits, symmetric, one scale a channel. A value has one pair, shared by all readers. Biases
    stay fp32: TensorRT wants them so, and ONNX Runtime converts them itself.

    Args:
        nodes: The convolutions, by name.
        scales: Of the values they read, and of those they compute if ``outputs``.
        dtype: Of activations: INT8, UINT8 or FLOAT8E4M3FN. Weights are INT8, or FLOAT8E4M3FN too.
        outputs: Whether results are quantised as well, which ONNX Runtime needs to fuse.
        weight_bits: 7 leaves room in the 16-bit sums of processors without VNNI.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        scales: Mapping[str, Scale],
        dtype: ir.DataType,
        outputs: bool,
        weight_bits: int = 8,
    ) -> None:
        super().__init__()
        self.nodes = frozenset(nodes)
        self.scales = scales
        self.dtype = dtype
        self.outputs = outputs
        self.weight_bits = weight_bits

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        if any(node.op_type == "QuantizeLinear" for node in graph):
            return ir.passes.PassResult(model, modified=False)
        if self.dtype == ir.DataType.FLOAT8E4M3FN:
            raise_opset(model, FP8_OPSET, "fp8")
        pairs: dict[ir.Value, ir.Value] = {}
        weights: dict[str, ir.Value] = {}
        chosen = [node for node in graph if node.name in self.nodes]
        for node in chosen:
            data, weight = node.inputs[0], node.inputs[1]
            assert data is not None
            assert weight is not None
            node.replace_input_with(1, self._quantised_weight(graph, node, weight, weights))
            node.replace_input_with(0, self._pair(graph, data, pairs))
        if self.outputs:
            for node in chosen:
                self._quantise_result(graph, node.outputs[0], pairs)
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[name]
        return ir.passes.PassResult(model, modified=bool(chosen))

    def _pair(self, graph: ir.Graph, value: ir.Value, pairs: dict[ir.Value, ir.Value]) -> ir.Value:
        if value not in pairs:
            settings = self.scales[str(value.name)]
            scale = _constant(graph, f"{value.name}_scale", np.array(settings.scale, np.float32), ir.DataType.FLOAT)
            zero = _constant(graph, f"{value.name}_zero", _stored(settings.zero_point, self.dtype), self.dtype)
            quantise = ir.node("QuantizeLinear", [value, scale, zero], name=f"quantise_{value.name}")
            restore = ir.node("DequantizeLinear", [quantise.outputs[0], scale, zero], name=f"dequantise_{value.name}")
            _name(quantise.outputs[0], f"{value.name}_quantised", self.dtype, value.shape)
            _name(restore.outputs[0], f"{value.name}_dequantised", ir.DataType.FLOAT, value.shape)
            producer = value.producer()
            if producer is None:
                graph.insert_before(graph[0], [quantise, restore])
            else:
                graph.insert_after(producer, [quantise, restore])
            pairs[value] = restore.outputs[0]
        return pairs[value]

    def _quantise_result(self, graph: ir.Graph, value: ir.Value, pairs: dict[ir.Value, ir.Value]) -> None:
        uses = list(value.uses())
        restored = self._pair(graph, value, pairs)
        for use in uses:
            if use.node.op_type != "QuantizeLinear":
                use.node.replace_input_with(use.idx, restored)

    def _quantised_weight(
        self, graph: ir.Graph, node: ir.Node, weight: ir.Value, weights: dict[str, ir.Value]
    ) -> ir.Value:
        assert weight.name is not None
        assert weight.const_value is not None
        if weight.name not in weights:
            array = weight.const_value.numpy().astype(np.float32)
            kind = self.dtype if self.dtype == ir.DataType.FLOAT8E4M3FN else ir.DataType.INT8
            stored, scale = quantised_weight(array, kind, self.weight_bits)
            scales = _constant(graph, f"{weight.name}_scale", scale, ir.DataType.FLOAT)
            zeros = _constant(graph, f"{weight.name}_zero", _stored(np.zeros(len(scale)), kind), kind)
            content = _constant(graph, f"{weight.name}_quantised", stored, kind)
            restore = ir.node(
                "DequantizeLinear", [content, scales, zeros], {"axis": 0}, name=f"dequantise_{weight.name}"
            )
            _name(restore.outputs[0], f"{weight.name}_dequantised", ir.DataType.FLOAT, weight.shape)
            graph.insert_before(node, restore)
            weights[weight.name] = restore.outputs[0]
        return weights[weight.name]


def quantised_weight(
    array: NDArray[np.float32], dtype: ir.DataType, bits: int = 8
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Stores weights ``(M, ...)`` in 8 bits, symmetric, one scale for each of the M channels.

    Returns:
        The stored numbers, in the shape of ``array``, and the scales ``(M,)``.
    """
    largest = np.abs(array).reshape(len(array), -1).max(axis=1)
    top = FP8_LARGEST if dtype == ir.DataType.FLOAT8E4M3FN else 2.0 ** (bits - 1) - 1
    scale = (np.where(largest > 0, largest, 1.0) / top).astype(np.float32)
    scaled = array / scale.reshape(-1, *[1] * (array.ndim - 1))
    return _stored(scaled if dtype == ir.DataType.FLOAT8E4M3FN else np.clip(np.rint(scaled), -top, top), dtype), scale


def _stored(values: object, dtype: ir.DataType) -> NDArray[np.generic]:
    kinds = {
        ir.DataType.INT8: np.int8,
        ir.DataType.UINT8: np.uint8,
        ir.DataType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    }
    return np.asarray(values).astype(kinds[dtype])


def _constant(graph: ir.Graph, name: str, array: NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(dtype),
        const_value=ir.Tensor(array, dtype=dtype, name=name),
    )
    graph.register_initializer(value)
    return value


def _name(value: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), shape
