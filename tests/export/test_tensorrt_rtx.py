# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX, which builds engines without a GPU and knows no plugins, builds them from SegNeXt-T as exported.

Through the same builder as `freqfusion build`, so that the code that TensorRT shares with it runs here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from freqfusion_runtime.building.builder import BuiltEngine, EngineBuilder, ParsedNetwork
from freqfusion_runtime.engines.flavours import open_flavour
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.profiles import read_profiles
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'freqfusion-deploy[rtx]'")

# Two profiles, neither square nor of equal batch.
PROFILES = {
    "tensor": (["1x64x64", "2x256x128"], ["1x512x512", "2x256x256"], ["4x768x1024", "8x256x512"]),
    "image": (["1x32x32"], ["1x480x640"], ["4x1080x1920"]),
}
INPUTS = {"tensor": ("images", (-1, 3, -1, -1)), "image": ("image", (-1, -1, -1, 3))}
OUTPUTS = {"tensor": ("logits", (-1, 150, -1, -1)), "image": ("labels", (-1, -1, -1))}
# The operators that the image interface adds to SegNeXt's.
NODES = {"AdaptiveFilter": 10, "LocalSimilarity": 4, "OffsetResample": 2}
PICTURE_NODES = {"PrepareImage": 1, "ResizeArgmax": 1}


def builder_of(path: Path, interface: str) -> EngineBuilder:
    facts = read_onnx_facts(path)
    profiles = read_profiles(facts.manifest(path.name), *PROFILES[interface])
    return EngineBuilder(open_flavour("tensorrt-rtx"), path, facts, profiles, BuildOptions())


def check_network(parsed: ParsedNetwork, interface: str, dtypes: tuple[Any, Any]) -> None:
    """Names, types and shapes, as the file promises them."""
    network = parsed.network
    assert (network.num_inputs, network.num_outputs) == (1, 1)
    for tensor, expected, dtype in (
        (network.get_input(0), INPUTS[interface], dtypes[0]),
        (network.get_output(0), OUTPUTS[interface], dtypes[1]),
    ):
        assert (tensor.name, tuple(tensor.shape)) == expected
        assert tensor.dtype == dtype
    counts = {}
    for entry in parsed.operator_paths:
        assert entry.path == "function body"  # RTX has no plugins
        counts[entry.operator] = counts.get(entry.operator, 0) + 1
    assert counts == NODES | (PICTURE_NODES if interface == "image" else {})


def check_engine(built: BuiltEngine, precisions: set[str]) -> None:
    assert built.plan[:4] == b"vtrt"
    assert built.record.tensorrt_version == trt.__version__
    assert {layer.precision for layer in built.layers} >= precisions
    assert built.memory["activations"] > 0


@pytest.mark.long
@pytest.mark.parametrize("interface", ["tensor", "image"])
def test_the_fp32_file_becomes_an_engine(exported, interface):
    builder = builder_of(exported[interface], interface)
    dtypes = {"tensor": (trt.float32, trt.float32), "image": (trt.uint8, trt.uint8)}
    check_network(builder.parse(), interface, dtypes[interface])
    fractions = []
    built = builder.build(Path("net.plan"), lambda fraction, _: fractions.append(fraction))
    check_engine(built, {"fp32"})
    assert len(built.plan) > 16e6  # the weights are in it
    assert len(built.record.profiles) == len(PROFILES[interface][0])
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) > 100


@pytest.mark.long
@pytest.mark.parametrize("interface", ["tensor", "image"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_typed_file_becomes_an_engine_of_its_types(typed_file, precision, interface):
    path = typed_file(precision, interface)
    builder = builder_of(path, interface)
    manifest = builder.manifest
    assert (manifest.precision, manifest.interface) == (precision, interface)
    # Whatever is inside, inputs and outputs are those of the fp32 file.
    kind = trt.float32 if interface == "tensor" else trt.uint8
    check_network(builder.parse(), interface, (kind, kind))
    built = builder.build(Path("net.plan"))
    check_engine(built, {precision, "fp32"})  # fp32: the islands, and what 8 bits leave
