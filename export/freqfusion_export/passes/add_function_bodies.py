# SPDX-License-Identifier: Apache-2.0
"""Gives every FreqFusion node a body of standard operators."""

from __future__ import annotations

import onnx_ir as ir

from freqfusion_export import functions, image_functions
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN


class AddFunctionBodiesPass(ir.passes.InPlacePass):
    """Adds the model-local functions that the graph's ``freqfusion`` nodes need, and those they call.

    Before: o = freqfusion::LocalSimilarity[...](x), an operator nobody knows
    After:  the same node, and model.functions has freqfusion::LocalSimilarity
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        parts = (*functions.PARTS, *image_functions.PARTS)
        bodies = {f.name: f for f in (*functions.OPERATORS, image_functions.PrepareImage, *parts)}
        wanted = [n.op_type for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.domain == DOMAIN]
        modified = False
        while wanted:
            name = wanted.pop()
            if (DOMAIN, name, "") in model.functions:
                continue
            body = ir.serde.deserialize_function(bodies[name].to_function_proto())
            model.functions[body.identifier()] = body
            wanted += [node.op_type for node in body if node.domain == DOMAIN]
            modified = True
        if modified:
            model.opset_imports.setdefault(DOMAIN, functions.freqfusion.version)
        return ir.passes.PassResult(model, modified)
