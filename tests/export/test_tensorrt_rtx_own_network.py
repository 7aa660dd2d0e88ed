# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX builds engines of networks of one's own, with the sizes that their inputs share."""

from __future__ import annotations

import pytest
from freqfusion_runtime.building.builder import EngineBuilder
from freqfusion_runtime.engines.flavours import open_flavour
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.profiles import read_profiles
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from own_network_files import exported

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'freqfusion-deploy[rtx]'")

PROFILES = {
    "unet": (["1x32x32"], ["1x64x96"], ["4x200x104"]),
    "two inputs": (
        ["image=1x2x4,depth=1x1x1x2"],
        ["image=1x98x50,depth=1x1x49x25"],
        ["image=3x98x50,depth=3x1x49x25"],
    ),
}


@pytest.mark.parametrize("name", PROFILES)
def test_rtx_builds_it(name, tmp_path):
    path = exported(name)
    facts = read_onnx_facts(path)
    profiles = read_profiles(facts.manifest(path.name), *PROFILES[name])
    builder = EngineBuilder(open_flavour("tensorrt-rtx"), path, facts, profiles, BuildOptions())
    built = builder.build(tmp_path / "net.plan", lambda *_: None)
    assert built.plan[:4] == b"vtrt"
    assert {entry.path for entry in built.record.operator_paths} == {"function body"}
