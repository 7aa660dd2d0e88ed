# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX, which knows no plugins and refuses several standard operators, reads Mask2Former as exported."""

from __future__ import annotations

import pytest
from freqfusion_runtime.building.builder import EngineBuilder
from freqfusion_runtime.engines.flavours import open_flavour
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.profiles import read_profiles
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from mask2former_files import small_file

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'freqfusion-deploy[rtx]'")
pytestmark = pytest.mark.long

PROFILES = {
    "tensor": (["1x64x64", "2x256x128"], ["1x128x128", "2x256x256"], ["2x256x256", "2x256x256"]),
    "image": (["1x32x32"], ["1x48x64"], ["2x128x128"]),
}
OUTPUTS = {
    "tensor": [("mask_logits", (-1, 12, -1, -1)), ("class_logits", (-1, 12, 8))],
    "image": [("labels", (-1, -1, -1))],
}


@pytest.mark.parametrize("interface", ["tensor", "image"])
def test_both_files_are_read_with_free_sizes(interface):
    path = small_file(interface)
    facts = read_onnx_facts(path)
    profiles = read_profiles(facts.manifest(path.name), *PROFILES[interface])
    parsed = EngineBuilder(open_flavour("tensorrt-rtx"), path, facts, profiles, BuildOptions()).parse()
    network = parsed.network
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    assert [(output.name, tuple(output.shape)) for output in outputs] == OUTPUTS[interface]
    assert {entry.path for entry in parsed.operator_paths} == {"function body"}
