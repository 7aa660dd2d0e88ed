# SPDX-License-Identifier: Apache-2.0
"""ONNX files read without the onnx package, compared with what the package says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.external_data import external_files, model_sha256
from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts
from freqfusion_runtime.model_files.onnx_nodes import list_nodes
from freqfusion_runtime.model_files.onnx_probe import inner_values
from freqfusion_runtime.model_files.onnx_writing import field
from freqfusion_runtime.sessions.fast_convolutions import with_fast_convolutions
from growth import assert_linear, steps
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x08" + b"\xff" * 300_000, "a number of more than 10 bytes at byte 1"),
        (b"\x3a\x80", "is no ONNX model"),
    ],
)
def test_a_number_without_end_is_refused_at_once(tmp_path, content, reason):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)

    def refuse():
        with pytest.raises(ModelFileError, match=reason):
            read_onnx_facts(path)

    assert steps(refuse) < 3000


def test_graphs_inside_each_other_end_in_a_sentence(tmp_path):
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [], []).SerializeToString()
    for _ in range(2000):  # which protobuf itself would not write
        graph = field(1, field(5, field(6, graph)))
    path = tmp_path / "net.onnx"
    path.write_bytes(field(7, graph))
    with pytest.raises(ModelFileError, match="it has graphs inside each other, more than 32 deep"):
        read_onnx_facts(path)
    assert external_files(path) == ()


@pytest.mark.parametrize("dims", [[1] * 65, [-1]])
def test_a_tensor_of_too_many_or_negative_sides_is_refused(tmp_path, dims):
    path = save(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"])], w=np.ones(3))
    model = onnx.load(path)
    model.graph.initializer[0].dims[:] = dims
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="has a tensor of more than 64 dimensions, or of a negative one"):
        read_onnx_facts(path)


def many_nodes(path, count):
    names = [f"v{number}" for number in range(count)]
    return save(path, [helper.make_node("Carafe", ["x"], [name], name, domain="freqfusion") for name in names])


def many_weights(path, count):
    return save(path, [helper.make_node("Relu", ["x"], ["y"])], **{f"w{k}": np.ones(3) for k in range(count)})


def many_outputs(path, count):
    model = onnx.load(save(path, [helper.make_node("Relu", ["x"], ["y"])]))
    model.graph.output.extend(helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, [1, "n"]) for k in range(count))
    onnx.save(model, path)
    return path


def many_dimensions(path, count):
    """As bytes: a node's list of numbers."""
    return save(path, [helper.make_node("Conv", ["x"], ["y"], domain="freqfusion", numbers=[1] * 50 * count)])


@pytest.mark.parametrize("make", [many_nodes, many_weights, many_outputs, many_dimensions])
@pytest.mark.parametrize("read", [read_onnx_facts, list_nodes, inner_values, model_sha256, with_fast_convolutions])
def test_the_work_grows_with_the_file_and_no_faster(tmp_path, read, make):
    assert_linear(read, lambda size: make(tmp_path / f"{size}.onnx", size), 300)
