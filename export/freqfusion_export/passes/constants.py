# SPDX-License-Identifier: Apache-2.0
"""Reading and replacing constant inputs, as the folding passes need it."""

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
