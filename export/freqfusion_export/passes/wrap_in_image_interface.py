# SPDX-License-Identifier: Apache-2.0
"""Takes a network from normalised tensors to pictures: pre- and post-processing move into the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.model_files.onnx_probe import UNPADDED
from onnxscript.values import OnnxFunction

from freqfusion_export.operators.image_functions import PrepareImageAsPillow, PrepareImageOtherwise
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
        pads = self.preprocessing.size_fit == "pad"
        tape = ir.tape.Tape()
        prepare = prepare_image(image, self.preprocessing, 1 if pads else self.preprocessing.size_divisor)
        fitted = prepare.outputs[0]
        fitted.type = images.type
        prepared = pad_to_multiples(tape, fitted, self.preprocessing.size_divisor) if pads else fitted
        graph.insert_before(first, [prepare, *tape.nodes])
        ir.convenience.replace_all_uses_with(images, prepared)
        prepared.name, prepared.shape, prepared.type = images.name, images.shape, images.type
        graph.inputs[:] = [image]
        if pads:
            fitted.name, fitted.shape = f"{UNPADDED}images", ir.Shape(["batch", 3, "fitted_height", "fitted_width"])
            logits = self._without_padding(graph, logits, prepared, fitted)
        graph.outputs[:] = [self._labels(graph, image, fitted, logits)]
        model.opset_imports.setdefault(DOMAIN, 1)
        return ir.passes.PassResult(model, modified=True)

    @staticmethod
    def _without_padding(graph: ir.Graph, logits: ir.Value, padded: ir.Value, fitted: ir.Value) -> ir.Value:
        """Resizes the logits to the padded image and cuts the padding off, as mm does before its second resize.

        That is as large as the class maps of the image, which no step of other files is.
        """
        tape = ir.tape.Tape()
        batch_and_classes = tape.op("Shape", [logits], {"start": 0, "end": 2})
        size = tape.op("Concat", [batch_and_classes, tape.op("Shape", [padded], {"start": 2, "end": 4})], {"axis": 0})
        none = tape.op("Constant", [], {"value": ir.tensor(np.zeros(0, np.float32))})
        attributes = {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}
        resized = tape.op("Resize", [logits, none, none, size], attributes)
        starts, axes = (tape.op("Constant", [], {"value_ints": values}) for values in ([0, 0], [2, 3]))
        cut = tape.op("Slice", [resized, starts, tape.op("Shape", [fitted], {"start": 2, "end": 4}), axes])
        cut.name, cut.type = f"{UNPADDED}logits", logits.type
        graph.extend(tape.nodes)
        return cut

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


def pad_to_multiples(tape: ir.tape.Tape, images: ir.Value, divisor: int) -> ir.Value:
    """Appends zeros below and at the right of ``(batch, 3, h, w)`` images."""

    def integers(*values: int) -> ir.Value:
        return tape.op("Constant", [], {"value_ints": list(values)})

    size = tape.op("Shape", [images], {"start": 2, "end": 4})
    step = integers(divisor)
    up = tape.op("Sub", [tape.op("Add", [size, step]), integers(1)])
    target = tape.op("Mul", [tape.op("Div", [up, step]), step])
    pads = tape.op("Concat", [integers(*[0] * 6), tape.op("Sub", [target, size])], {"axis": 0})
    return tape.op("Pad", [images, pads])


def prepare_image_body(settings: Preprocessing) -> dict[str, OnnxFunction[Any, Any]]:
    """Returns the body that takes the place of ``PrepareImage``'s own for settings it does not have, by name."""
    if settings.resizer == "pillow":
        return {"PrepareImage": PrepareImageAsPillow}
    return {"PrepareImage": PrepareImageOtherwise} if any(_unofficial(settings).values()) else {}


def _unofficial(settings: Preprocessing) -> dict[str, int]:
    height, width = settings.exact_size or (0, 0)
    special = {"exact_height": height, "exact_width": width, "reverse_channels": int(settings.color_order == "BGR")}
    return {**special, "resize_as_pillow": 1} if settings.resizer == "pillow" else special


def prepare_image(image: ir.Value, settings: Preprocessing, size_divisor: int) -> ir.Node:
    """Makes the node that resizes and normalises pictures, stretching them to multiples of ``size_divisor``."""
    special = _unofficial(settings)
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
            **(special if any(special.values()) else {}),  # official files stay as they are, and so does their body
        },
        name="prepare_image",
    )
