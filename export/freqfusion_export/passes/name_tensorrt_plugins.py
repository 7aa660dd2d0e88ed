# SPDX-License-Identifier: Apache-2.0
"""Names the TensorRT plugin of every FreqFusion node."""

from __future__ import annotations

import onnx_ir as ir

# The same as plugins/plugin_identity.h; tests/plugins/test_identity.py ties the two together.
DOMAIN = "freqfusion"
PLUGIN_NAMESPACE = "freqfusion"
PLUGIN_VERSION = "1"

# Inputs whose values TensorRT must know when it infers shapes. Read by its parser from this attribute (onnx-tensorrt,
# importPluginV3); other runtimes ignore it.
SHAPE_INPUTS_ATTRIBUTE = "tensorrt_plugin_shape_input_indices"
SHAPE_INPUTS = {"DeformableAttention": [3], "QueryArgmax": [2], "ResizeArgmax": [1]}

# Operators without a plugin: TensorRT takes their function bodies, elementwise operators and its own RoiAlign.
WITHOUT_PLUGIN = frozenset({"PrepareImage", "PyramidRoiAlign"})


class NameTensorRTPluginsPass(ir.passes.InPlacePass):
    """Adds ``plugin_version`` and ``plugin_namespace`` to every node of the ``freqfusion`` domain.

    TensorRT's parser looks a plugin up by (op type, version, namespace) and takes the last two from these attributes.
    From 10.15 on it prefers the function body unless ``plugin_namespace`` is there.

        Before: o = freqfusion::Carafe[kernel_size=5, ...](f, m)
        After:  o = freqfusion::Carafe[kernel_size=5, ..., plugin_version="1", plugin_namespace="freqfusion"](f, m)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        wanted = {"plugin_version": PLUGIN_VERSION, "plugin_namespace": PLUGIN_NAMESPACE}
        modified = False
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            if node.domain != DOMAIN or node.op_type in WITHOUT_PLUGIN:
                continue
            for name, value in wanted.items():
                if node.attributes.get_string(name) != value:
                    node.attributes.add(ir.AttrString(name, value))
                    modified = True
            indices = SHAPE_INPUTS.get(node.op_type)
            if indices is not None and SHAPE_INPUTS_ATTRIBUTE not in node.attributes:
                node.attributes.add(ir.AttrInt64s(SHAPE_INPUTS_ATTRIBUTE, indices))
                modified = True
        return ir.passes.PassResult(model, modified)
