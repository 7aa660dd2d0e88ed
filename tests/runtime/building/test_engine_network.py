# SPDX-License-Identifier: Apache-2.0
"""Values inside a network as outputs of an engine, in TensorRT-RTX's own network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_builds import needs_rtx
from freqfusion_runtime.building.builder import EngineBuilder
from freqfusion_runtime.engines.errors import GateError
from freqfusion_runtime.engines.flavours import open_flavour
from freqfusion_runtime.engines.options import BuildOptions
from freqfusion_runtime.engines.profiles import read_profiles
from freqfusion_runtime.model_files.manifest import METADATA_KEY
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from freqfusion_runtime.model_files.onnx_probe import inner_values
from onnx import TensorProto, helper
from small_models import tensor_manifest

pytestmark = needs_rtx
HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float32": TensorProto.FLOAT}


def half_typed_model(path: Path, dtype: str) -> Path:
    """Casts to a type and back, a FreqFusion node between, which is no output."""
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("freqfusion", 1)]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    attributes = {"kernel_size": 3, "dilation": 2}
    nodes = [
        helper.make_node("Cast", ["image"], ["typed"], to=HALVES[dtype]),
        helper.make_node("LocalSimilarity", ["typed"], ["similar"], "echo", domain="freqfusion", **attributes),
        helper.make_node("Cast", ["similar"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "one"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    function = helper.make_function("freqfusion", "LocalSimilarity", ["x"], ["y"], body, opsets[:1], list(attributes))
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: tensor_manifest().to_json()})
    onnx.save(model, path)
    return path


def builder_of(path: Path, further: list[str]) -> EngineBuilder:
    facts = read_onnx_facts(path)
    profiles = read_profiles(facts.manifest(""), [], ["1x64x64"], [])
    return EngineBuilder(open_flavour("tensorrt-rtx"), path, facts, profiles, BuildOptions(), further_outputs=further)


@pytest.mark.parametrize("dtype", HALVES)
def test_values_of_every_type_come_out_as_fp32_under_their_names(tmp_path, dtype):
    import tensorrt_rtx

    path = half_typed_model(tmp_path / "net.onnx", dtype)
    assert [value.tensor for value in inner_values(path)] == ["similar"]
    builder = builder_of(path, ["similar"])
    network = builder.parse().network
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    assert [(output.name, output.dtype) for output in outputs] == [
        ("logits", tensorrt_rtx.float32),
        ("similar", tensorrt_rtx.float32),
    ]
    assert tuple(outputs[1].shape) == (-1, 3, -1, -1)
    assert builder.build(tmp_path / "net.plan").plan[:4] == b"vtrt"


def test_an_engine_with_further_outputs_is_another_engine(tmp_path):
    path = half_typed_model(tmp_path / "net.onnx", "float16")
    keys = [builder_of(path, further).key().digest for further in ([], ["similar"], ["similar"])]
    assert keys[0] != keys[1] == keys[2]


def test_a_value_that_the_network_does_not_have_is_named(tmp_path):
    path = half_typed_model(tmp_path / "net.onnx", "float16")
    with pytest.raises(GateError, match=r"network has no values called absent, other, so the gate cannot look inside"):
        builder_of(path, ["similar", "absent", "other"]).parse()
