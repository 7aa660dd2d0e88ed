# SPDX-License-Identifier: Apache-2.0
"""Refuses graphs that a supported runtime would silently compute wrongly."""

from __future__ import annotations

import onnx_ir as ir

from freqfusion_export.errors import ExportError


class ForbidMisreadOperatorsPass(ir.passes.InPlacePass):
    """Raises ``ExportError`` where GridSample meets opset 20 or later.

    From that opset on the mode is spelled ``linear``, which TensorRT's parser (11.1, RTX 1.5) does not know and
    silently replaces by ``nearest`` (onnx-tensorrt PR 1060).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        bodies = (node for function in model.functions.values() for node in function)
        sampled = any(n.op_type == "GridSample" for n in (*ir.traversal.RecursiveGraphIterator(model.graph), *bodies))
        if opset >= 20 and sampled:
            raise ExportError(
                f"the model has GridSample at opset {opset}, which TensorRT reads as nearest; export at opset 16 to 19"
            )
        return ir.passes.PassResult(model, modified=False)
