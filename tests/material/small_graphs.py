# SPDX-License-Identifier: Apache-2.0
"""Small ONNX graphs for the tests of passes and precision: written as text, run, changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime

HEADER = '<ir_version: 10, opset_import: ["": 18, "freqfusion": 1]> '


def parse(graph: str, **arrays: np.ndarray) -> ir.Model:
    """Builds a model from ONNX text; ``arrays`` become initializers."""
    model = ir.from_onnx_text(HEADER + graph)
    for value in list(model.graph.inputs):
        if value.name in arrays:
            model.graph.inputs.remove(value)
            value.const_value = ir.Tensor(arrays[value.name].astype(np.float32), name=value.name)
            model.graph.initializers[value.name] = value
    return model


def run(model: ir.Model, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {name: value.astype(np.float32) for name, value in inputs.items()})[0]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def scaled(path, name, factor):
    """The same network with one of its values ``factor`` times as large between two nodes that cancel out."""
    model = ir.load(path)
    node = next(node for node in model.graph if node.name == name)
    uses = list(node.outputs[0].uses())
    value = node.outputs[0]
    for step, by in (("enlarged", factor), ("restored", 1 / factor)):
        constant = ir.val(f"{step}_by", const_value=ir.tensor(np.float32(by), name=f"{step}_by"))
        constant.type, constant.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
        model.graph.register_initializer(constant)
        multiplied = ir.node("Mul", [value, constant], name=step)
        multiplied.outputs[0].name, multiplied.outputs[0].type = f"{step}_value", node.outputs[0].type
        model.graph.insert_after(value.producer(), multiplied)
        value = multiplied.outputs[0]
    for use in uses:
        use.node.replace_input_with(use.idx, value)
    return model
