# SPDX-License-Identifier: Apache-2.0
"""Q/DQ pairs stand where they should, compute what they say, and groups of layers are weighed by what they lose."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from freqfusion_export import export
from freqfusion_export.errors import ExportError
from freqfusion_export.passes.insert_quantization import InsertQuantizationPass, Scale, quantised_weight
from freqfusion_export.passes.label_stages import MODULE_KEY
from freqfusion_export.precision.quantization import plan
from freqfusion_export.precision.sensitivity import eight_bit_session, settle
from small_graphs import draw, parse

NETWORK = """g (float[1,4,6,6] images, float[4,4,1,1] w, float[4] b, float[4,4,3,3] v) => (float[1,4,6,6] logits) {
    a = Conv(images, w, b)
    r = Relu(a)
    o = Conv<pads=[1,1,1,1]>(r, v)
    logits = Conv(o, w)
}"""
INT8, UINT8, FP8 = ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.FLOAT8E4M3FN


def network() -> ir.Model:
    model = parse(NETWORK, w=draw(4, 4, 1, 1), b=draw(4), v=draw(4, 4, 3, 3))
    modules = {"a": "body.first", "o": "body.dysampler.offset", "logits": "head.conv_seg"}
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
        if node.outputs[0].name in modules:
            node.metadata_props[MODULE_KEY] = modules[node.outputs[0].name]
    return model


FEEDS = [{"images": np.random.default_rng(seed).standard_normal((1, 4, 6, 6)).astype("f")} for seed in range(3)]


def run(model: ir.Model, optimise: bool = True) -> np.ndarray:
    return eight_bit_session(ir.to_proto(model).SerializeToString(), optimise).run(None, FEEDS[0])[0]


def error(actual, expected) -> float:
    return float(np.sqrt(((actual - expected) ** 2).mean()) / expected.std())


@pytest.mark.parametrize(
    ("precision", "target", "dtype", "bound"),
    # Two layers of 8 bits: 2 ** -8 of the range each, an eighth of a number in fp8's three bits of mantissa.
    [("int8", "tensorrt", INT8, 0.02), ("int8", "onnxruntime", UINT8, 0.04), ("fp8", "tensorrt", FP8, 0.12)],
)
@pytest.mark.parametrize("calibrator", ["entropy", "percentile"])
def test_eight_bits_stay_near(precision, target, dtype, bound, calibrator):
    model = network()
    quantization = plan(model, precision, FEEDS, calibrator=calibrator, target=target)
    assert set(quantization.nodes.values()) == {"body.first", "head.conv_seg"}  # the sampler's layer is left out
    quantised = quantization.applied(model)
    onnx.checker.check_model(ir.to_proto(quantised), full_check=True)
    zeros = [node.inputs[2] for node in quantised.graph if node.op_type == "QuantizeLinear"]
    assert {zero.dtype for zero in zeros} == {dtype}
    if target == "tensorrt":
        assert all(float(zero.const_value.numpy()) == 0 for zero in zeros)  # TensorRT takes no other
    assert 1e-5 < error(run(quantised, optimise=precision != "fp8"), run(model)) < 10 * bound
    assert quantised.opset_imports[""] == (19 if precision == "fp8" else 18)


def test_values_have_one_pair_and_results_too_where_asked():
    scales = {name: Scale(0.1) for name in ("images", "a", "r", "o", "logits")}
    model = InsertQuantizationPass(["node_a", "node_o"], scales, INT8, outputs=True)(network()).model
    pairs = [node.inputs[0].name for node in model.graph if node.op_type == "QuantizeLinear"]
    assert sorted(pairs) == ["a", "images", "o", "r"]
    assert not InsertQuantizationPass(["node_a"], scales, INT8, outputs=False)(model).modified
    assert model.graph.outputs[0].name == "logits"


@pytest.mark.parametrize(("dtype", "bits", "half_step"), [(INT8, 8, 0.5 / 127), (INT8, 7, 0.5 / 63), (FP8, 8, 1 / 16)])
def test_weights_are_symmetric_by_channel(dtype, bits, half_step):
    weight = (draw(5, 3, 2, 2) * np.array([1, 10, 100, 0.1, 0]).reshape(5, 1, 1, 1)).astype(np.float32)
    stored, scale = quantised_weight(weight, dtype, bits)
    restored = stored.astype(np.float32) * scale.reshape(-1, 1, 1, 1)
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    assert (np.abs(restored - weight) <= half_step * largest * 1.001).all()


def test_the_worst_groups_stay_in_fp32_until_the_limit_is_met():
    model = network()
    quantization = plan(model, "int8", FEEDS)
    _, table = settle(model, quantization, FEEDS, max_drop=1.0)
    groups = {line.group: line for line in table}
    assert set(groups) == {"body.first", "head.conv_seg", "all", "kept"}
    assert groups["kept"].layers == groups["all"].layers == 2
    worst = table[0]
    # Spoil one group's input scale: it must be found and taken out.
    scales = {**quantization.scales, "images": Scale(2.0)}
    spoiled = type(quantization)(quantization.nodes, scales, INT8, "tensorrt", 8)
    chosen, table = settle(model, spoiled, FEEDS, max_drop=max(0.02, worst.label_drop))
    assert table[0].group == "body.first"
    assert table[0].is_kept
    assert list(chosen.nodes.values()) == ["head.conv_seg"]
    with pytest.raises(ExportError, match=r"8 bits change .* allowed. Raise --max-drop, or export fp16"):
        settle(model, spoiled, FEEDS, max_drop=-1)


def test_a_network_whose_own_scores_are_no_numbers_is_not_judged():
    model = network()
    quantization = plan(model, "int8", FEEDS)
    broken = network()
    weights = broken.graph.initializers["w"]
    weights.const_value = ir.tensor(np.full((4, 4, 1, 1), np.nan, np.float32), name="w")
    with pytest.raises(ExportError, match=r"100\.0% of the network's own class scores .* infinite or not a number"):
        settle(broken, quantization, FEEDS, max_drop=1.0)


def test_eight_bits_want_pictures_and_something_to_quantise(segnext_t, traced_segnext, tmp_path):
    with pytest.raises(ExportError, match=r"int8 takes its scales from pictures.*--calibration"):
        export(segnext_t, tmp_path / "m.onnx", traced=traced_segnext, precision="int8")
    with pytest.raises(ExportError, match="no convolution is left to quantise"):
        plan(network(), "int8", FEEDS, keep=["node_*"])
    with pytest.raises(ExportError, match="no node, module or stage is called 'nose'"):
        plan(network(), "int8", FEEDS, keep=["nose"])
