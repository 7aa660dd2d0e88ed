# SPDX-License-Identifier: Apache-2.0
"""Gives every FreqFusion node a body of standard operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass
from onnxscript.values import OnnxFunction

from freqfusion_export.operators import box_functions, functions, image_functions, roi_align_products
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN

_MODULES = (functions, image_functions, box_functions, roi_align_products)
_PARTS = {part.name: part for module in _MODULES for part in module.PARTS}
_ALL = (*functions.OPERATORS, *box_functions.OPERATORS, image_functions.PrepareImage)
OPERATORS = {operator.name: operator for operator in _ALL}
"""Every FreqFusion operator that a file may have, by its name."""


class AddFunctionBodiesPass(ir.passes.InPlacePass):
    """Adds the model-local functions that the graph's ``freqfusion`` nodes need.

    Functions that several bodies share are inlined into them: TensorRT-RTX 1.7 loses references to attributes on the
    way into a function that is called by a function, and then divides by a scale of zero. Suppression of boxes is
    inlined too: there is no kernel of ours for it, and runtimes know the standard operator in it.

    Where any node reflects, all nodes of its operator get an attribute ``padding`` and the body one that asks for it: a
    body cannot ask whether an attribute is there.

    Before: o = freqfusion::LocalSimilarity[...](x), an operator nobody knows
    After:  the same node, and model.functions has freqfusion::LocalSimilarity

    Args:
        instead: Bodies to use in place of the usual ones, by the operator's name.
    """

    def __init__(self, instead: Mapping[str, OnnxFunction[Any, Any]] | None = None) -> None:
        super().__init__()
        self._operators = {**OPERATORS, **(instead or {})}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        wanted = [n.op_type for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.domain == DOMAIN]
        padded = _state_padding(model)
        modified = False
        while wanted:
            name = wanted.pop()
            if (DOMAIN, name, "") in model.functions:
                continue
            source = functions.PADDED[name] if name in padded else self._operators.get(name) or _PARTS[name]
            body = ir.serde.deserialize_function(source.to_function_proto())
            body.name = name  # that of a body instead may be another
            model.functions[body.identifier()] = body
            wanted += [node.op_type for node in body if node.domain == DOMAIN]
            modified = True
        if modified:
            model.opset_imports.setdefault(DOMAIN, functions.freqfusion.version)
            InlinePass(criteria=lambda function: function.domain == DOMAIN and function.name in _PARTS)(model)
        return ir.passes.PassResult(model, modified)


def _state_padding(model: ir.Model) -> set[str]:
    """Writes the default of ``padding`` to the nodes without it, for each operator of which a node has it.

    Returns:
        Those operators.
    """
    nodes = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.domain == DOMAIN]
    padded = {node.op_type for node in nodes if "padding" in node.attributes}
    for node in nodes:
        if node.op_type in padded and "padding" not in node.attributes:
            node.attributes.add(ir.AttrInt64("padding", 0))
    return padded
