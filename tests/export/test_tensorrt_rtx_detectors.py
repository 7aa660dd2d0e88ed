# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX takes the whole detectors, suppression unrolled and RoIAlign as products, where no GPU is."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from freqfusion_export.networks.forms import form_of
from freqfusion_export.networks.graph import Layout, file_graph
from freqfusion_export.precision.assignment import assign_half

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


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "interface", "precision"),
    [
        ("faster_rcnn_r50", "image", "fp32"),
        ("mask_rcnn_r50", "tensor", "fp32"),
        ("mask_rcnn_r50", "tensor", "fp16"),
        ("panoptic_fpn_r50", "tensor", "fp32"),
    ],
)
def test_an_engine_is_built(detector_files, name, interface, precision, tmp_path):
    form = form_of(detector_files.network(name))
    traced = detector_files.traced(name)
    model = file_graph(traced, form, Layout(interface, "unrolled", "products"))
    if precision == "fp16":
        assign_half(model, "fp16")
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    messages = Messages()
    builder = trt.Builder(messages)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, messages)
    assert parser.parse_from_file(str(path)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        profile.set_shape(tensor.name, *SIZES[tensor.name])
    assert [network.get_output(i).name for i in range(network.num_outputs)] == list(
        detector_files.network(name).output_names
    )
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, messages.errors
    # The weights are in it, in the file's type.
    assert 150e6 < engine.nbytes * (2 if precision == "fp16" else 1) < 350e6
