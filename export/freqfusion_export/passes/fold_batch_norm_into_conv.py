# SPDX-License-Identifier: Apache-2.0
"""Folds a batch normalisation into the 1 x 1 convolution after it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from freqfusion_export.passes.constants import constant_array, replace_input


class FoldBatchNormIntoConvPass(ir.passes.InPlacePass):
    """Absorbs a BatchNormalization into the convolutions that read it.

    Runtimes fold a normalisation into the convolution *before* it; MSCAN has it *before* the convolution, which is
    exact only without padding, hence for 1 x 1 kernels.

        Before: o = Conv1x1(BatchNormalization(x, scale, shift, mean, var), w, b)
        After:  o = Conv1x1(x, w * a, b + w @ (shift - mean * a))      a = scale / sqrt(var + eps)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            if node.op_type == "BatchNormalization" and node.domain == "" and self._fold(model.graph, node):
                modified = True
        return ir.passes.PassResult(model, modified)

    @staticmethod
    def _fold(graph: ir.Graph, norm: ir.Node) -> bool:
        scale, shift, mean, variance = (constant_array(value) for value in norm.inputs[1:5])
        readers = [use.node for use in norm.outputs[0].uses()]
        if scale is None or shift is None or mean is None or variance is None or not readers:
            return False
        if not all(_is_plain_1x1(node) for node in readers) or norm.outputs[0].is_graph_output():
            return False
        factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        offset = shift - mean * factor
        for conv in readers:
            weight = constant_array(conv.inputs[1])
            bias = constant_array(conv.inputs[2]) if len(conv.inputs) > 2 else None
            assert weight is not None
            moved = weight[:, :, 0, 0] @ offset
            replace_input(graph, conv, 2, moved if bias is None else bias + moved)
            replace_input(graph, conv, 1, weight * factor.reshape(1, -1, 1, 1))
            conv.replace_input_with(0, norm.inputs[0])
        graph.remove(norm, safe=True)
        return True


def _is_plain_1x1(node: ir.Node) -> bool:
    if node.op_type != "Conv" or node.domain != "":
        return False
    weight = constant_array(node.inputs[1])
    has_free_bias = len(node.inputs) > 2 and constant_array(node.inputs[2]) is None
    if weight is None or weight.shape[2:] != (1, 1) or has_free_bias:
        return False
    pads = node.attributes.get_ints("pads", [0, 0, 0, 0])
    return not any(pads) and node.attributes.get_int("group", 1) == 1
