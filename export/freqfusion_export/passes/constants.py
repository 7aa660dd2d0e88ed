# SPDX-License-Identifier: Apache-2.0
"""Reading and replacing constant inputs, as the folding passes need it, and writing constants as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant_array(value: ir.Value | None) -> NDArray[Any] | None:
    """Returns a constant's values in float64, or None if ``value`` is not constant."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy().astype(np.float64)


_SHORT_FORMS = {  # of Constant, and what they are as tensors
    "value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32,
}  # fmt: skip


class ConstantsAsTensorsPass(ir.passes.InPlacePass):
    """Writes constants in the one form that every tool reads rightly.

    onnx-graphsurgeon 0.6 and what folds constants with it make float64 of ``value_float``, which then meets float32.

    Before: c = Constant(value_float=0.5)
    After:  c = Constant(value=<float32 tensor 0.5>); a constant that is an attribute of its function stays
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        for holder in holders:
            for node in ir.traversal.RecursiveGraphIterator(holder):
                if node.op_type != "Constant" or node.domain:
                    continue
                (attribute,) = node.attributes.values()
                dtype = _SHORT_FORMS.get(attribute.name)
                if dtype is not None and not attribute.is_ref():
                    node.attributes.clear()
                    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.array(attribute.value, dtype)))
                    modified = True
        return ir.passes.PassResult(model, modified)


def replace_input(graph: ir.Graph, node: ir.Node, index: int, array: NDArray[Any]) -> None:
    """Makes a new fp32 initializer the ``index``-th input of ``node``; the old one may have other users."""
    old = node.inputs[index] if index < len(node.inputs) else None
    base = f"{node.name}_input{index}" if old is None else str(old.name)
    name = next(n for i in range(len(graph.initializers) + 1) if (n := f"{base}_folded{i}") not in graph.initializers)
    value = ir.Value(name=name, const_value=ir.Tensor(array.astype(np.float32), name=name))
    graph.initializers[name] = value
    if index == len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
