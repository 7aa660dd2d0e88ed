# SPDX-License-Identifier: Apache-2.0
"""Values inside an ONNX file become outputs of it without the onnx package."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.onnx_probe import STAGE_KEY, InnerValue, inner_values, write_with_outputs
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from onnx import helper
from small_models import write_tensor_model


@pytest.fixture
def model(tmp_path):
    return write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")


def changed(path, change):
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, path)
    return path


def behind_the_node(proto):
    """The node's result is no output any more."""
    node = proto.graph.node[-1]
    node.output[0] = "echoed"
    proto.graph.node.append(helper.make_node("Relu", ["echoed"], ["logits"]))


def test_results_of_freqfusion_nodes_are_listed_but_for_outputs(model):
    assert inner_values(model) == []
    changed(model, behind_the_node)
    assert inner_values(model) == [InnerValue("layer", "LocalSimilarity echo", "echoed")]


@pytest.mark.parametrize(
    ("stage", "level"), [("head.0.hr_out", "module"), ("head.0.lr_out", "module"), ("a.b", "layer")]
)
def test_a_modules_result_carries_its_name(model, stage, level):
    def label(proto):
        behind_the_node(proto)
        entry = proto.graph.node[-2].metadata_props.add()
        entry.key, entry.value = STAGE_KEY, stage

    (value,) = inner_values(changed(model, label))
    assert (value.level, value.tensor) == (level, "echoed")
    assert value.name == (stage if level == "module" else "LocalSimilarity echo")


def test_pictures_and_scores_are_levels_of_their_own(tmp_path):
    path = tmp_path / "net.onnx"
    nodes = [
        helper.make_node("PrepareImage", ["image"], ["images"], domain="freqfusion"),
        helper.make_node("ResizeArgmax", ["scores", "sizes"], ["labels"], domain="freqfusion"),
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [])), path)
    assert [(v.level, v.tensor) for v in inner_values(path)] == [("preprocessing", "images"), ("network", "scores")]


def test_what_is_computed_for_each_proposal_has_no_fixed_order_and_is_left_out(tmp_path):
    nodes = [
        helper.make_node("Carafe", ["x", "m"], ["map"], "carafe", domain="freqfusion"),
        helper.make_node("PyramidRoiAlign", ["map", "boxes"], ["crops"], "crop", domain="freqfusion"),
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [])), tmp_path / "net.onnx")
    assert [value.name for value in inner_values(tmp_path / "net.onnx")] == ["Carafe carafe"]


def test_further_outputs_are_computed_and_the_others_stay(model, tmp_path):
    write_with_outputs(model, ["means", "mixed"], tmp_path / "probed.onnx")
    assert [output.name for output in onnx.load(tmp_path / "probed.onnx").graph.output] == ["logits", "means", "mixed"]
    images = np.random.default_rng(0).normal(size=(1, 3, 64, 32)).astype(np.float32)
    found = OnnxRuntimeSession(tmp_path / "probed.onnx", kernels="never").run({"image": images})
    assert set(found) == {"logits", "means", "mixed"}
    np.testing.assert_array_equal(found["mixed"], found["logits"])  # the node's body changes nothing
    np.testing.assert_allclose(found["means"], images.reshape(1, 3, 8, 8, 4, 8).mean((3, 5)), atol=1e-6)


def test_without_further_outputs_it_is_the_same_file(model, tmp_path):
    write_with_outputs(model, [], tmp_path / "probed.onnx")
    assert (tmp_path / "probed.onnx").read_bytes() == model.read_bytes()


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 20)
    with pytest.raises(ModelFileError, match="is no ONNX model"):
        inner_values(tmp_path / "bad.onnx")
    with pytest.raises(ModelFileError, match="is no ONNX model"):
        inner_values(tmp_path / "none.onnx")
