# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX takes the detectors, suppression unrolled.

Its parser makes RoiAlign's plugin only where a CUDA driver is, so RoiAlign becomes inputs here: the rest is what is
parsed and built. With a driver the whole files can be.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from freqfusion_export import exporter
from freqfusion_export.forms import form_of
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")

SIZES = {
    "images": ((1, 3, 64, 64), (1, 3, 64, 128), (1, 3, 128, 128)),
    "image": ((1, 64, 64, 3), (1, 64, 128, 3), (1, 128, 128, 3)),
    "image_sizes": ((1, 2),) * 3,
}


class Messages(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.errors = []

    def log(self, severity, text):
        if severity <= trt.ILogger.ERROR:
            self.errors.append(text)


def cut_roi_align(model: ir.Model) -> ir.Model:
    """Turns each RoiAlign's result into an input, and its boxes and map into outputs; their functions go in line."""
    for value in (v for node in model.functions["freqfusion", "PyramidRoiAlign", ""] for v in node.outputs):
        value.name = f"aligning_{value.name}"  # the parser's own names for values in functions are tmp_0_2 and the like
    InlinePass(criteria=lambda function: function.name == "PyramidRoiAlign")(model)
    graph = model.graph
    for i, node in enumerate([node for node in graph if node.op_type == "RoiAlign"]):
        cells = node.attributes.get_int("output_height", 0)
        for name, value in (("map", node.inputs[0]), ("rois", node.inputs[1])):
            kept = ir.node("Identity", [value])
            kept.outputs[0].name, kept.outputs[0].type = f"{name}_{i}", ir.TensorType(ir.DataType.FLOAT)
            kept.outputs[0].shape = ir.Shape([f"{name}_{i}_{axis}" for axis in range(4 if name == "map" else 2)])
            graph.insert_before(node, kept)
            graph.outputs.append(kept.outputs[0])
        aligned = ir.val(f"aligned_{i}", ir.DataType.FLOAT, [f"rois_{cells}", 256, cells, cells])
        graph.inputs.append(aligned)
        ir.convenience.replace_all_uses_with(node.outputs[0], aligned)
        graph.remove(node, safe=True)
    return RemoveUnusedNodesPass()(model).model


@pytest.mark.parametrize(
    ("name", "interface"), [("faster_rcnn_r50", "image"), ("mask_rcnn_r50", "tensor"), ("panoptic_fpn_r50", "tensor")]
)
def test_an_engine_is_built(detector_files, name, interface, tmp_path):
    form = form_of(detector_files.network(name))
    traced = detector_files.traced(name)
    model = exporter._graph_model(traced, interface, form.preprocessing, form, "unrolled")
    path = tmp_path / "model.onnx"
    ir.save(cut_roi_align(model), path)
    onnx.checker.check_model(path, full_check=True)
    messages = Messages()
    builder = trt.Builder(messages)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, messages)
    assert parser.parse_from_file(str(path)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        count = 1000 if tensor.shape[-1] == 7 else 100
        profile.set_shape(tensor.name, *SIZES.get(tensor.name, ((count, *tuple(tensor.shape)[1:]),) * 3))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, messages.errors
    assert engine.nbytes > 150e6  # the weights are in it
