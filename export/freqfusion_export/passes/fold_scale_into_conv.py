# SPDX-License-Identifier: Apache-2.0
"""Folds a constant per-channel factor into the convolution before it."""

from __future__ import annotations

import onnx_ir as ir

from freqfusion_export.passes.constants import constant_array, replace_input
from freqfusion_export.passes.label_stages import STAGE_KEY


class FoldScaleIntoConvPass(ir.passes.InPlacePass):
    """Multiplies a convolution's weights by the layer scale that follows it.

    MSCAN scales the result of every MLP by a learned factor per channel: one more pass over memory each.

        Before: o = Mul(Conv(x, w, b), s)        s: (C, 1, 1), used by nothing between
        After:  o = Conv(x, w * s, b * s)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "Mul" and node.domain == "" and self._fold(model.graph, node):
                modified = True
        return ir.passes.PassResult(model, modified)

    @staticmethod
    def _fold(graph: ir.Graph, mul: ir.Node) -> bool:
        for scaled, factor in (mul.inputs, reversed(mul.inputs)):
            conv = scaled.producer() if scaled is not None else None
            scale = constant_array(factor)
            if scaled is None or conv is None or conv.op_type != "Conv" or scale is None:
                continue
            weight = constant_array(conv.inputs[1])
            bias = constant_array(conv.inputs[2]) if len(conv.inputs) > 2 else None
            if weight is None or scale.shape != (weight.shape[0], 1, 1) or len(scaled.uses()) != 1:
                continue
            if len(conv.inputs) > 2 and bias is None:
                continue
            replace_input(graph, conv, 1, weight * scale.reshape(-1, 1, 1, 1))
            if bias is not None:
                replace_input(graph, conv, 2, bias * scale.reshape(-1))
            ir.convenience.replace_all_uses_with(mul.outputs[0], scaled, replace_graph_outputs=True)
            graph.remove(mul, safe=True)
            conv.metadata_props.pop(STAGE_KEY, None)  # no longer what the module returns
            return True
        return False
