# SPDX-License-Identifier: Apache-2.0
"""Models of standard operators alone, in the form that most readers know."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.plain.inlining import graphs_of, inlined, simplified
from onnx import TensorProto, helper, parser
from onnx.reference import ReferenceEvaluator

OPERATOR = """
<ir_version: 10, opset_import: ["" : 18, "freqfusion" : 1, "unused" : 3]>
network (float[N, C] x, float16[N, C] h) => (float[N, C] y, float16[N, C] g)
<float[2, 3] inner>
{
    inner = freqfusion.Twice <k = 3> (x)
    y = freqfusion.Twice <k = 4> (inner)
    g = freqfusion.Twice <k = 2> (h)
}
<domain: "freqfusion", opset_import: ["" : 18]>
Twice <k> (a) => (b)
{
    factor = Constant <value_int: int = @k> ()
    half = Constant <value_float = 0.5> ()
    sides = Shape (a)
    like = CastLike (factor, a)
    less = CastLike (half, a)
    same = CastLike (a, a)
    product = Mul (same, like)
    part = Mul (product, less)
    b = Reshape <allowzero = 1> (part, sides)
}
"""


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(text)


def test_bodies_come_in_place_of_calls_and_nothing_is_left_that_strict_readers_trip_over():
    network = model(OPERATOR)
    network.graph.node[0].metadata_props.add(key="module", value="head")
    network.graph.node[0].doc_string = "told"
    network.metadata_props.add(key="kept", value="as it is")
    plain = inlined(network, "net.onnx")
    onnx.checker.check_model(plain, full_check=True)
    assert [(entry.domain, entry.version) for entry in plain.opset_import] == [("", 18)]
    assert not plain.functions
    assert not plain.graph.value_info
    assert {node.op_type for node in plain.graph.node} == {"Cast", "Mul", "Reshape", "Shape"}
    assert all(not node.attribute for node in plain.graph.node if node.op_type == "Reshape")
    assert not any(node.metadata_props or node.doc_string for node in plain.graph.node)
    assert [(entry.key, entry.value) for entry in plain.metadata_props] == [("kept", "as it is")]
    assert network.functions  # what is given stays


def test_what_is_computed_stays():
    inputs = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "h": np.ones((2, 3), np.float16)}
    y, g = ReferenceEvaluator(inlined(model(OPERATOR), "net.onnx")).run(None, inputs)
    np.testing.assert_array_equal(y, inputs["x"] * 3)  # 3 / 2 * 4 / 2
    np.testing.assert_array_equal(g, np.ones((2, 3), np.float16))
    assert g.dtype == np.float16


def test_an_operator_without_a_body_is_named():
    network = model(OPERATOR)
    del network.functions[:]
    with pytest.raises(ModelFileError, match=r"net\.onnx has Twice of the domain 'freqfusion' without a body"):
        inlined(network, "net.onnx")


def test_in_branches_constants_stay_where_they_are_as_tensors():
    network = model("""
<ir_version: 10, opset_import: ["" : 18]>
network (bool c, float[N] x) => (float[N] y)
{
    two = Constant <value_float = 2.0> ()
    y = If (c) <
        then_branch = yes () => (float[N] a) {
            three = Constant <value_float = 3.0> ()
            t = CastLike (three, two)
            a = Mul (x, t)
        },
        else_branch = no () => (float[N] b) { b = Mul (x, two) }
    >
}
""")
    plain = simplified(network)
    onnx.checker.check_model(plain, full_check=True)
    (constant,) = [node for graph in graphs_of(plain.graph) for node in graph.node if node.op_type == "Constant"]
    assert [attribute.name for attribute in constant.attribute] == ["value"]
    assert [tensor.name for tensor in plain.graph.initializer] == ["two"]
    for taken, factor in ((True, 3), (False, 2)):
        (y,) = ReferenceEvaluator(plain).run(None, {"c": np.array(taken), "x": np.ones(2, np.float32)})
        np.testing.assert_array_equal(y, [factor] * 2)


def test_copies_into_outputs_stay():
    network = helper.make_model(
        helper.make_graph(
            [helper.make_node("CastLike", ["x", "x"], ["y"])],
            "copy",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    assert [node.op_type for node in simplified(network).graph.node] == ["Identity"]
