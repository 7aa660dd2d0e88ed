# SPDX-License-Identifier: Apache-2.0
"""Takes a network of queries from normalised tensors to pictures: pre- and post-processing move into the graph."""

from __future__ import annotations

import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.model_files.onnx_probe import UNPADDED

from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN
from freqfusion_export.passes.wrap_in_image_interface import pad_to_multiples, prepare_image


class WrapQueriesInImageInterfacePass(ir.passes.InPlacePass):
    """Puts the official test pipeline before the network and the label map behind it.

        Before: images (batch, 3, h, w) float -> mask_logits (batch, queries, h/4, w/4), class_logits (batch, queries,
                classes + 1)
        After:  image (batch, height, width, 3) uint8 RGB -> labels (batch, height, width) uint8 (int32 above 256
                classes)

    Args:
        preprocessing: Sizes, mean and deviation; it pads.
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
        images = graph.inputs[0]
        image = ir.val("image", ir.DataType.UINT8, ["batch", "height", "width", 3])
        prepare = prepare_image(image, self.preprocessing, size_divisor=1)
        fitted = prepare.outputs[0]
        fitted.name, fitted.type = f"{UNPADDED}images", images.type
        fitted.shape = ir.Shape(["batch", 3, "fitted_height", "fitted_width"])
        tape = ir.tape.Tape()
        padded = pad_to_multiples(tape, fitted, self.preprocessing.size_divisor)
        graph.insert_before(graph[0], [prepare, *tape.nodes])
        ir.convenience.replace_all_uses_with(images, padded)
        padded.name, padded.type = images.name, images.type
        padded.shape = ir.Shape(["batch", 3, "padded_height", "padded_width"])
        graph.inputs[:] = [image]
        graph.outputs[:] = [self._labels(graph, image, fitted, padded)]
        model.opset_imports.setdefault(DOMAIN, 1)
        return ir.passes.PassResult(model, modified=True)

    def _labels(self, graph: ir.Graph, image: ir.Value, fitted: ir.Value, padded: ir.Value) -> ir.Value:
        masks, classes = graph.outputs
        assert masks.shape is not None
        masks.shape = ir.Shape(["batch", masks.shape[1], "padded_height/4", "padded_width/4"])
        sides = [
            ir.node("Shape", [value], {"start": start, "end": start + 2}, name=name)
            for value, start, name in (
                (padded, 2, "padded_size"),
                (fitted, 2, "fitted_size"),
                (image, 1, "picture_size"),
            )
        ]
        sizes = ir.node("Concat", [side.outputs[0] for side in sides], {"axis": 0}, name="query_sizes")
        argmax = ir.node("QueryArgmax", [masks, classes, sizes.outputs[0]], domain=DOMAIN, name="query_argmax")
        dtype = ir.DataType.UINT8 if self.num_classes <= 256 else ir.DataType.INT32
        cast = ir.node("Cast", [argmax.outputs[0]], {"to": int(dtype)}, name="labels")
        shape = ir.Shape(["batch", "height", "width"])
        argmax.outputs[0].shape, argmax.outputs[0].type = shape, ir.TensorType(ir.DataType.INT32)
        labels = cast.outputs[0]
        labels.name, labels.shape, labels.type = "labels", shape, ir.TensorType(dtype)
        graph.extend([*sides, sizes, argmax, cast])
        return labels
