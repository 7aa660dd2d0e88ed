# SPDX-License-Identifier: Apache-2.0
"""Every pass does what its docstring says, keeps the numbers, and changes nothing the second time."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from freqfusion_export.errors import ExportError
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_export.passes.fold_batch_norm_into_conv import FoldBatchNormIntoConvPass
from freqfusion_export.passes.fold_scale_into_conv import FoldScaleIntoConvPass
from freqfusion_export.passes.forbid_misread_operators import ForbidMisreadOperatorsPass
from freqfusion_export.passes.label_stages import MODULE_KEY, STAGE_KEY, LabelStagesPass
from freqfusion_export.passes.name_tensorrt_plugins import SHAPE_INPUTS_ATTRIBUTE, NameTensorRTPluginsPass
from freqfusion_export.passes.wrap_in_image_interface import WrapInImageInterfacePass
from freqfusion_runtime.model_files.manifest import Preprocessing
from small_graphs import HEADER, draw, parse, run


def apply_twice(graph_pass, model: ir.Model) -> ir.Model:
    first = graph_pass(model)
    assert first.modified
    assert not graph_pass(first.model).modified
    return first.model


NORM_THEN_CONV = """
    g (float[1,4,5,6] x, float[4] s, float[4] b, float[4] m, float[4] v, float[3,4,{k},{k}] w) => (float[1,3,h,q] o) {{
        n = BatchNormalization<epsilon = 0.001>(x, s, b, m, v)
        o = Conv<pads = [{p},{p},{p},{p}]>(n, w)
    }}"""


def norm_arrays(k: int) -> dict[str, np.ndarray]:
    return {"s": draw(4), "b": draw(4), "m": draw(4), "v": draw(4) ** 2 + 0.1, "w": draw(3, 4, k, k)}


def test_batch_norm_is_folded_into_a_1x1_convolution():
    x = draw(1, 4, 5, 6)
    expected = run(parse(NORM_THEN_CONV.format(k=1, p=0), **norm_arrays(1)), x=x)
    model = apply_twice(FoldBatchNormIntoConvPass(), parse(NORM_THEN_CONV.format(k=1, p=0), **norm_arrays(1)))
    assert [node.op_type for node in model.graph] == ["Conv"]
    np.testing.assert_allclose(run(model, x=x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("k", "p"), [(3, 1), (1, 1)])
def test_batch_norm_before_padding_stays(k, p):
    model = parse(NORM_THEN_CONV.format(k=k, p=p), **norm_arrays(k))
    assert not FoldBatchNormIntoConvPass()(model).modified


def test_batch_norm_with_another_reader_stays():
    graph = """g (float[1,4,5,6] x, float[4] s, float[4] b, float[4] m, float[4] v, float[4,4,1,1] w)
        => (float[1,4,5,6] o) { n = BatchNormalization(x, s, b, m, v)  c = Conv(n, w)  o = Add(c, n) }"""
    model = parse(graph, **{**norm_arrays(1), "w": draw(4, 4, 1, 1)})
    assert not FoldBatchNormIntoConvPass()(model).modified


SCALED = (
    "g (float[1,4,5,6] x, float[3,4,1,1] w, float[3] b, float[3,1,1] s) => (float[1,3,5,6] o) { c = Conv(x, w, b) %s }"
)


@pytest.mark.parametrize("mul", ["o = Mul(c, s)", "o = Mul(s, c)"])
def test_a_scale_is_folded_into_the_convolution_before(mul):
    arrays, x = {"w": draw(3, 4, 1, 1), "b": draw(3), "s": draw(3, 1, 1)}, draw(1, 4, 5, 6)
    expected = run(parse(SCALED % mul, **arrays), x=x)
    model = apply_twice(FoldScaleIntoConvPass(), parse(SCALED % mul, **arrays))
    assert [node.op_type for node in model.graph] == ["Conv"]
    np.testing.assert_allclose(run(model, x=x), expected, rtol=1e-5, atol=1e-5)


def test_a_scale_of_a_value_with_other_readers_stays():
    model = parse(SCALED % "t = Mul(c, s)  o = Add(t, c)", w=draw(3, 4, 1, 1), b=draw(3), s=draw(3, 1, 1))
    assert not FoldScaleIntoConvPass()(model).modified


SIMILARITY = (
    "g (float[1,4,5,6] x) => (float[1,8,5,6] o) { o = freqfusion.LocalSimilarity<kernel_size=3, dilation=2>(x) }"
)


def test_plugins_are_named():
    model = apply_twice(NameTensorRTPluginsPass(), parse(SIMILARITY))
    node = model.graph[0]
    assert node.attributes["plugin_version"].value == "1"
    assert node.attributes["plugin_namespace"].value == "freqfusion"


def test_sizes_of_resize_argmax_are_named_as_shapes():
    model = parse("""g (float[1,4,5,6] x, int64[4] z) => (int32[1,h,w] o)
        { o = freqfusion.ResizeArgmax<align_corners=0>(x, z) }""")
    apply_twice(NameTensorRTPluginsPass(), model)
    assert list(model.graph[0].attributes[SHAPE_INPUTS_ATTRIBUTE].value) == [1]


def test_bodies_are_whole_without_calling_others():
    model = parse("""g (float[1,4,5,6] x, float[1,9,5,6] m) => (float[1,4,5,6] o)
        { o = freqfusion.Carafe<kernel_size=3, group_size=1, scale_factor=1>(x, m) }""")
    apply_twice(AddFunctionBodiesPass(), model)
    assert {name for _, name, _ in model.functions} == {"Carafe"}
    assert {node.domain for function in model.functions.values() for node in function} == {""}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_stages_are_labelled_and_notes_removed():
    model = parse("g (float[1] x) => (float[1] o) { a = Relu(x)  b = Neg(a)  o = Abs(b) }")
    scopes = ["['', 'body', 'body.act', 'relu']", "['', 'body', 'neg']", "['', 'head', 'abs']"]
    for node, scope in zip(model.graph, scopes, strict=True):
        node.metadata_props.update({"pkg.torch.onnx.name_scopes": scope, "pkg.torch.onnx.stack_trace": "/home/me"})
    model = apply_twice(LabelStagesPass(), model)
    assert [dict(node.metadata_props) for node in model.graph] == [
        {MODULE_KEY: "body.act", STAGE_KEY: "body.act"},
        {MODULE_KEY: "body", STAGE_KEY: "body"},
        {MODULE_KEY: "head", STAGE_KEY: "head"},
    ]


def test_image_interface_is_wrapped_once():
    model = parse("g (float[b,3,h,w] images) => (float[b,3,i,j] logits) { logits = Neg(images) }")
    model = apply_twice(WrapInImageInterfacePass(Preprocessing(long_side=64, short_side=32), 3), model)
    apply_twice(AddFunctionBodiesPass(), model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    picture = np.zeros((1, 9, 13, 3), np.uint8)
    picture[..., 1] = 255  # the largest is the least negated: not green
    (labels,) = session.run(None, {"image": picture})
    assert labels.shape == (1, 9, 13)
    assert labels.dtype == np.uint8
    assert 1 not in labels


def test_grid_sample_at_opset_20_is_refused():
    graph = "g (float[1,4,5,6] x, float[1,5,6,2] p) => (float[1,4,5,6] o) { o = GridSample(x, p) }"
    assert not ForbidMisreadOperatorsPass()(parse(graph)).modified
    late = ir.from_onnx_text(HEADER.replace("18", "20") + graph)
    with pytest.raises(Exception, match="GridSample at opset 20, which TensorRT reads as nearest") as raised:
        ForbidMisreadOperatorsPass()(late)
    causes = [raised.value, raised.value.__cause__]
    assert any(isinstance(cause, ExportError) for cause in causes)
