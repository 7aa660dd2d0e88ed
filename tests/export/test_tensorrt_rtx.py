# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX, which builds engines without a GPU and knows no plugins, takes the exported files as they are."""

from __future__ import annotations

import pytest

trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")

PROFILES = {  # smallest, usual and largest input
    "tensor": ((1, 3, 64, 64), (1, 3, 512, 512), (4, 3, 768, 1024)),
    "image": ((1, 32, 32, 3), (1, 512, 512, 3), (4, 1080, 1920, 3)),
}
OUTPUTS = {"tensor": ("logits", trt.float32, (-1, 150, -1, -1)), "image": ("labels", trt.uint8, (-1, -1, -1))}


class Messages(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.errors = []

    def log(self, severity, text):
        if severity <= trt.ILogger.ERROR:
            self.errors.append(text)


@pytest.mark.parametrize("interface", ["tensor", "image"])
def test_an_engine_is_built_from_the_function_bodies(exported, interface):
    messages = Messages()
    builder = trt.Builder(messages)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, messages)
    parsed = parser.parse_from_file(str(exported[interface]))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    output = network.get_output(0)
    assert (output.name, output.dtype, tuple(output.shape)) == OUTPUTS[interface]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, *PROFILES[interface])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, messages.errors
    assert engine.nbytes > 16e6  # the weights are in it
