# SPDX-License-Identifier: Apache-2.0
"""ONNX files read without the onnx package, compared with what the package says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from onnx import TensorProto, helper, numpy_helper
from small_models import image_manifest, write_image_model, write_tensor_model


def save(path, nodes, opset=18, functions=(), **constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("acme", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10), path)
    return path


def test_tensors_weights_opsets_and_metadata(tmp_path):
    path = save(tmp_path / "a.onnx", [helper.make_node("Relu", ["x"], ["y"])], w=np.ones((2, 3, 5)), i=np.array([1, 2]))
    facts = read_onnx_facts(path)
    assert [(s.name, s.dtype, s.shape) for s in facts.inputs] == [("x", "float16", (1, "n"))]
    assert [(s.name, s.dtype, s.shape) for s in facts.outputs] == [("y", "bfloat16", ())]
    assert facts.weights == {"float64": 30, "int64": 2}
    assert facts.opsets == {"": 18, "acme": 3}


def test_the_manifest_is_read_from_the_metadata(tmp_path):
    path = write_image_model(tmp_path / "net.onnx")
    assert read_onnx_facts(path).manifest(str(path)) == image_manifest()


def test_nodes_of_bodies_and_branches_are_seen(tmp_path):
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["z"], "inner")], "b", [], [])
    body = helper.make_function(
        "acme", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("If", ["c"], ["z"], "choice", then_branch=branch, else_branch=branch),
        helper.make_node("Twice", ["z"], ["y"], domain="acme"),
    ]
    facts = read_onnx_facts(save(tmp_path / "a.onnx", nodes, functions=[body]))
    assert [(n.operator, n.function, n.opset) for n in facts.nodes] == [
        ("If", "", 18),
        ("Neg", "", 18),
        ("Neg", "", 18),
        ("Twice", "", 3),
        ("Add", "acme::Twice", 17),
    ]
    assert [n.operator for n in facts.main_nodes] == ["If", "Neg", "Neg", "Twice"]


def test_grid_sample_is_found_by_the_opset_of_where_it_stands(tmp_path):
    sample = helper.make_node("GridSample", ["a", "a"], ["b"], "inner", mode="linear")
    old, new = (
        helper.make_function("acme", name, ["a"], ["b"], [sample], [helper.make_opsetid("", opset)])
        for name, opset in (("Old", 18), ("New", 20))
    )
    nodes = [helper.make_node("Old", ["x"], ["z"], domain="acme"), helper.make_node("New", ["z"], ["y"], domain="acme")]
    facts = read_onnx_facts(save(tmp_path / "a.onnx", nodes, functions=[old, new]))
    assert facts.misread_nodes() == ["inner in acme::New (opset 20)"]


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"no model", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is no ONNX model"):
        read_onnx_facts(path)


def test_a_truncated_model_is_refused(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelFileError, match="is no ONNX model"):
        read_onnx_facts(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="is a folder"):
        read_onnx_facts(tmp_path)
