# SPDX-License-Identifier: Apache-2.0
"""Takes a half type out of a network again, with or without its rounding."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from freqfusion_export.passes.assign_precision import BF16_OPSET, CAST_KEY, FLOAT, FP32_OPSET, HALF_TYPES, MOVEMENT


class WidenToFp32Pass(ir.passes.InPlacePass):
    """Makes every half-typed value fp32.

    With ``rounding`` each value is rounded to the type it had and keeps its name, so that the network computes in fp32
    what hardware computes that multiplies halves and adds in fp32, which tensor cores and our kernels do. That is how
    half precision is judged here: ONNX Runtime's CPU provider has no fp16 kernels for most operators, computes in fp32,
    drops the roundings between its nodes (1 + 3e-4 - 1 gave 3e-4 on 1.32 where fp16 gives 0), and refuses bf16.

        Before: y = Relu(Conv(x, w))                         x, w, y float16
        After:  y = Round(Relu(Round(Conv(x, w))))           all float; Round = Cast<float>(Cast<float16>(...))

    Without, the file's fp32 network is left, as ``AssignPrecisionPass`` takes it; its weights stay rounded.

    The opset that bf16 needed is taken back: ONNX Runtime 1.32 has no RoiAlign of opset 22.
    """

    def __init__(self, rounding: bool) -> None:
        super().__init__()
        self.rounding = rounding

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        values = [value for node in graph for value in node.outputs if value.dtype in HALF_TYPES]
        constants = [value for value in graph.initializers.values() if value.dtype in HALF_TYPES]
        if not values and not constants:
            return ir.passes.PassResult(model, modified=False)
        for value in constants:
            assert value.const_value is not None
            array = value.const_value.numpy().astype(np.float32)
            value.const_value, value.type = ir.Tensor(array, name=value.name), ir.TensorType(FLOAT)
        for value in values:
            dtype = value.dtype
            assert dtype is not None
            value.type = ir.TensorType(FLOAT)
            producer = value.producer()
            assert producer is not None
            if self.rounding and producer.op_type not in MOVEMENT:
                _round(graph, value, dtype)
        for node in list(graph):
            if node.op_type == "Cast" and CAST_KEY in node.metadata_props:
                _bypass(graph, node, keeps_names=self.rounding)
        for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
            if imports.get("") == BF16_OPSET:
                imports[""] = FP32_OPSET
        return ir.passes.PassResult(model, modified=True)


def _round(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    producer, name = value.producer(), value.name
    assert producer is not None
    down = ir.node("Cast", [value], {"to": int(dtype)}, name=f"round_{name}")
    up = ir.node("Cast", [down.outputs[0]], {"to": int(FLOAT)}, name=f"rounded_{name}")
    value.name, down.outputs[0].name, up.outputs[0].name = f"{name}_unrounded", f"{name}_half", name
    down.outputs[0].type, up.outputs[0].type = ir.TensorType(dtype), ir.TensorType(FLOAT)
    up.outputs[0].shape = value.shape
    uses = [use for use in value.uses() if use.node is not down]
    graph.insert_after(producer, [down, up])
    for use in uses:
        use.node.replace_input_with(use.idx, up.outputs[0])


def _bypass(graph: ir.Graph, node: ir.Node, keeps_names: bool) -> None:
    """Removes a cast between equal types; a network's output keeps its name."""
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    if result.is_graph_output():
        producer = source.producer()
        if keeps_names or producer is None or source.is_graph_output():
            node.op_type = "Identity"
            node.attributes.clear()
            return
        # What was computed gets the output's name back, or typing the network again would give a name twice.
        source.name, result.name = result.name, None
        graph.outputs[list(graph.outputs).index(result)] = source
    ir.convenience.replace_all_uses_with(result, source)
    graph.remove(node, safe=True)
