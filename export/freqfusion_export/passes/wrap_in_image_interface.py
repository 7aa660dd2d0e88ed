# SPDX-License-Identifier: Apache-2.0
"""Takes a network from normalised tensors to pictures: pre- and post-processing move into the graph."""

from __future__ import annotations

import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import Preprocessing

from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN


class WrapInImageInterfacePass(ir.passes.InPlacePass):
    """Puts the official test pipeline before the network and the label map behind it.

        Before: images (batch, 3, h, w) float -> logits (batch, classes, h/8, w/8)
        After:  image (batch, height, width, 3) uint8 RGB -> labels (batch, height, width) uint8 (int32 above 256
                classes)

    Args:
        preprocessing: Sizes, mean and deviation.
        num_classes: Decides the labels' type.
    """

    def __init__(self, preprocessing: Preprocessing, num_classes: int) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.num_classes = num_classes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        if graph.inputs[0].dtype == ir.DataType.UINT8:
            return ir.passes.PassResult(model, modified=False)
        images, logits = graph.inputs[0], graph.outputs[0]
        image = ir.val("image", ir.DataType.UINT8, ["batch", "height", "width", 3])
        first = graph[0]
        prepare = prepare_image(image, self.preprocessing, self.preprocessing.size_divisor)
        graph.insert_before(first, prepare)
        ir.convenience.replace_all_uses_with(images, prepare.outputs[0])
        prepare.outputs[0].name, prepare.outputs[0].shape = images.name, images.shape
        prepare.outputs[0].type = images.type
        graph.inputs[:] = [image]
        graph.outputs[:] = [self._labels(graph, image, prepare.outputs[0], logits)]
        model.opset_imports.setdefault(DOMAIN, 1)
        return ir.passes.PassResult(model, modified=True)

    def _labels(self, graph: ir.Graph, image: ir.Value, images: ir.Value, logits: ir.Value) -> ir.Value:
        step = ir.node("Shape", [images], {"start": 2, "end": 4}, name="network_size")
        final = ir.node("Shape", [image], {"start": 1, "end": 3}, name="picture_size")
        sizes = ir.node("Concat", [step.outputs[0], final.outputs[0]], {"axis": 0}, name="resize_sizes")
        argmax = ir.node(
            "ResizeArgmax", [logits, sizes.outputs[0]], {"align_corners": 0}, domain=DOMAIN, name="resize_argmax"
        )
        dtype = ir.DataType.UINT8 if self.num_classes <= 256 else ir.DataType.INT32
        cast = ir.node("Cast", [argmax.outputs[0]], {"to": int(dtype)}, name="labels")
        shape = ir.Shape(["batch", "height", "width"])
        argmax.outputs[0].shape, argmax.outputs[0].type = shape, ir.TensorType(ir.DataType.INT32)
        labels = cast.outputs[0]
        labels.name, labels.shape, labels.type = "labels", shape, ir.TensorType(dtype)
        graph.extend([step, final, sizes, argmax, cast])
        return labels


def prepare_image(image: ir.Value, settings: Preprocessing, size_divisor: int) -> ir.Node:
    """Makes the node that resizes and normalises pictures, stretching them to multiples of ``size_divisor``."""
    return ir.node(
        "PrepareImage",
        [image],
        domain=DOMAIN,
        attributes={
            "long_side": settings.long_side,
            "short_side": settings.short_side,
            "size_divisor": size_divisor,
            "mean": [float(level) for level in settings.mean],
            "inverse_std": [1 / deviation for deviation in settings.std],
        },
        name="prepare_image",
    )
