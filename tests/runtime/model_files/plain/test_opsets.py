# SPDX-License-Identifier: Apache-2.0
"""Older versions of the operators and of the file's format: the same meaning, or a refusal by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.plain.inlining import simplified
from freqfusion_runtime.model_files.plain.opsets import lower_format, lower_opset
from freqfusion_runtime.model_files.plain.sizes import fix_sizes, parse_shape
from onnx import TensorProto, helper, parser
from onnx.reference import ReferenceEvaluator


def model(*nodes: str, opset: int = 18) -> onnx.ModelProto:
    text = " ".join(nodes)
    return simplified(
        parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[N, C, H, W] x) => (y) {{ {text} }}'
        )
    )


X = np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("nodes", "version"),
    [
        (["p = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> ()", "y = Pad (x, p)"], 13),
        (["a = Constant <value_ints = [1]> ()", "y = ReduceMax <keepdims = 0> (x, a)"], 13),
        (["y, z = Split <axis = 1, num_outputs = 2> (x)"], 13),
        (["y = Shape <start = 1> (x)"], 15),
        (["y = Shape (x)"], 13),
        (["s = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> ()", 'y = Resize <mode = "linear"> (x, , s)'], 13),
        (["z = Add (x, x)", "y = Relu (z)"], 13),
    ],
)
def test_the_older_form_computes_the_same(nodes, version):
    before, after = model(*nodes), model(*nodes)
    lower_opset(after, version, "net.onnx")
    assert after.opset_import[0].version == version
    expected = ReferenceEvaluator(before).run(None, {"x": X})
    for one, other in zip(ReferenceEvaluator(after).run(None, {"x": X}), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("nodes", "version", "message"),
    [
        (["y = Shape <start = 1> (x)"], 14, r"opset 14: Shape came later, or meant something else\. Choose 15 or more"),
        (["a, p = Split (x)", "y = Pad (x, a, , p)"], 17, "Pad"),
        (["y = Resize <antialias = 1> (x, , x)"], 17, "Resize"),
        (["w = Constant <value_floats = [1.0, 1.0]> ()", "y = LayerNormalization (x, w)"], 16, r"Choose 17 or more"),
        (["a = Shape <start = 1, end = 2> (x)", "y = ReduceMax (x, a)"], 17, "ReduceMax"),
        (["y = Relu (x)"], 12, r"has opset 18; it can be written for 13 to 18, not for 12"),
        (["y = Relu (x)"], 19, r"it can be written for 13 to 18, not for 19"),
    ],
)
def test_what_would_mean_something_else_is_refused_by_name(nodes, version, message):
    with pytest.raises(ModelFileError, match=message):
        lower_opset(model(*nodes), version, "net.onnx")


def test_regions_keep_the_half_pixel_they_were_cut_with():
    def regions(**attributes):
        return helper.make_model(
            helper.make_graph(
                [helper.make_node("RoiAlign", ["x", "r", "b"], ["y"], output_height=2, output_width=2, **attributes)],
                "regions",
                [
                    helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8]),
                    helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n", 4]),
                    helper.make_tensor_value_info("b", TensorProto.INT64, ["n"]),
                ],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
        )

    with pytest.raises(ModelFileError, match="RoiAlign came later"):  # half_pixel, by default since 16
        lower_opset(regions(), 15, "net.onnx")
    old = regions(coordinate_transformation_mode="output_half_pixel")
    lower_opset(old, 15, "net.onnx")
    assert [attribute.name for attribute in old.graph.node[0].attribute] == ["output_height", "output_width"]


def test_the_format_is_as_old_as_the_types_of_the_weights():
    network = model("y = Relu (x)")
    lower_format(network, 7, "net.onnx")
    assert network.ir_version == 7
    with pytest.raises(ModelFileError, match=r"has IR version 7; it can be written for 4 to 7, not for 3"):
        lower_format(network, 3, "net.onnx")
    eight_bits = model("y = Relu (x)")
    eight_bits.graph.initializer.add(name="w", data_type=TensorProto.FLOAT8E4M3FN, dims=[1], raw_data=b"\0")
    with pytest.raises(ModelFileError, match=r"a type that came with IR version 9, and cannot be written for 8"):
        lower_format(eight_bits, 8, "net.onnx")


def test_sizes_are_fixed_where_they_were_free():
    network = model("y = Relu (x)")
    fix_sizes(network, dict([parse_shape("x=1x4xHx8")]), "net.onnx")
    dims = network.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value or dim.dim_param for dim in dims] == [1, 4, "H", 8]
    with pytest.raises(ModelFileError, match=r"has the sides 1 x 4 x H x 8, which cannot be 2 x 4 x 6 x 8"):
        fix_sizes(network, {"x": (2, 4, 6, 8)}, "net.onnx")
    with pytest.raises(ModelFileError, match=r"has no input 'images'; its inputs are x"):
        fix_sizes(network, {"images": (1, 4, 6, 8)}, "net.onnx")
    with pytest.raises(ModelFileError, match="cannot be 1 x 4"):
        fix_sizes(network, {"x": (1, 4)}, "net.onnx")


@pytest.mark.parametrize("text", ["images", "images=", "=1x2", "images=1x0x2", "images=1x-3", "images=1,3"])
def test_shapes_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"must be NAME=SIDExSIDEx\.\.\., such as images=1x3x512x512, got"):
        parse_shape(text)
