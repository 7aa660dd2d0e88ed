# SPDX-License-Identifier: Apache-2.0
"""Takes a detector from normalised tensors to pictures: pre-processing moves into the graph, boxes out of its scale."""

from __future__ import annotations

import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import Preprocessing

from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN
from freqfusion_export.passes.wrap_in_image_interface import pad_to_multiples, prepare_image


class WrapDetectorInImageInterfacePass(ir.passes.InPlacePass):
    """Puts the official test pipeline before the network, and divides its boxes by the picture's scale.

        Before: images (batch, 3, h, w) float, image_sizes (batch, 2) -> num, boxes, ...
        After:  image (batch, height, width, 3) uint8 RGB -> num, boxes in pixels of the picture, ...

    The rest of the outputs is as before. Without a second resize `PrepareImage` gives the kept-ratio image, whose size
    is what the boxes are clipped to; zeros are appended here.

    Args:
        preprocessing: Sizes, mean and deviation.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        if graph.inputs[0].dtype == ir.DataType.UINT8:
            return ir.passes.PassResult(model, modified=False)
        images, image_sizes = graph.inputs
        image = ir.val("image", ir.DataType.UINT8, ["batch", "height", "width", 3])
        tape = ir.tape.Tape()
        prepare = prepare_image(image, self.preprocessing, size_divisor=1)
        fitted = prepare.outputs[0]
        fitted.type, fitted.shape = images.type, ir.Shape(["batch", 3, "fitted_height", "fitted_width"])
        size = tape.op("Shape", [fitted], {"start": 2, "end": 4})
        padded = pad_to_multiples(tape, fitted, self.preprocessing.size_divisor)
        sizes = tape.op("Expand", [size, _pair(tape, image)])
        scale = self._scale(tape, image, size)
        graph.insert_before(graph[0], [prepare, *tape.nodes])
        for old, new in ((images, padded), (image_sizes, sizes)):
            ir.convenience.replace_all_uses_with(old, new)
            new.name, new.type = old.name, old.type
        padded.shape = ir.Shape(["batch", 3, "padded_height", "padded_width"])
        sizes.shape = ir.Shape(["batch", 2])
        graph.inputs[:] = [image]
        self._rescale(graph, scale)
        for output in graph.outputs:
            if output.name == "semantic":
                assert output.shape is not None
                output.shape = ir.Shape(["batch", output.shape[1], "padded_height/4", "padded_width/4"])
        model.opset_imports.setdefault(DOMAIN, 1)
        return ir.passes.PassResult(model, modified=True)

    @staticmethod
    def _scale(tape: ir.tape.Tape, image: ir.Value, size: ir.Value) -> ir.Value:
        """Returns how much wider and higher the network's image is, (x, y, x, y)."""
        original = tape.op("Shape", [image], {"start": 1, "end": 3})
        factors = tape.op("Div", [_floats(tape, size), _floats(tape, original)])
        return tape.op("Gather", [factors, _integers(tape, 1, 0, 1, 0)], {"axis": 0})

    @staticmethod
    def _rescale(graph: ir.Graph, scale: ir.Value) -> None:
        position = next(i for i, output in enumerate(graph.outputs) if output.name == "boxes")
        boxes = graph.outputs[position]
        node = ir.node("Div", [boxes, scale], name="boxes_in_picture")
        rescaled = node.outputs[0]
        rescaled.shape, rescaled.type = boxes.shape, boxes.type
        boxes.name, rescaled.name = "boxes_in_image", "boxes"
        graph.append(node)
        graph.outputs[position] = rescaled


def _pair(tape: ir.tape.Tape, image: ir.Value) -> ir.Value:
    """Returns (batch, 2)."""
    batch = tape.op("Shape", [image], {"start": 0, "end": 1})
    return tape.op("Concat", [batch, _integers(tape, 2)], {"axis": 0})


def _integers(tape: ir.tape.Tape, *values: int) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": list(values)})


def _floats(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    return tape.op("Cast", [value], {"to": int(ir.DataType.FLOAT)})
