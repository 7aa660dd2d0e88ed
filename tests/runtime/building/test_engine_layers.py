# SPDX-License-Identifier: Apache-2.0
"""Lists of layers, in the three forms in which TensorRT gives them, and the progress of a build."""

from __future__ import annotations

import json

import pytest
from freqfusion_runtime.building.layers import (
    count_layers,
    precision_of,
    read_inspector,
    read_listing,
    reformats_around_plugins,
)
from freqfusion_runtime.building.progress import Progress

# As the builder of TensorRT-RTX 1.7 logged it for the small model, shortened.
LISTING = """Layers:
Name: __mye183_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: __myl_Move_myl0_1, LayerType: kgen, Inputs: [ { Name: image, Dimensions: [1,3,-1,-1], Strides: [-1,-1,-1,1], StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { Name: means.1, Dimensions: [1,3,-1,-1], Strides: [-1,1,-1,3], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: __myl_Move_0xf8, StreamId: 0, Metadata: 
Name: node_of_logits_myl0_3, LayerType: correlation, Inputs: [ { Name: means.1, Dimensions: [1,3,-1,-1], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [4,3,1,1], Datatype: Float, Format: (Linear) Row major linear format }], Outputs: [ { Name: logits, Dimensions: [1,4,-1,-1], Datatype: Float, Format: (Linear) Row major linear format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: node_of_logits]

I/O Tensors:
 Name: image, IOMode: Input, DataType: Float, Dimensions: [1,3,-1,-1]
"""  # noqa: E501, W291


def inspector(**third) -> str:
    """As the documentation of TensorRT's EngineInspector shows it; 11 says Datatype, 10 Format/Datatype."""

    def tensor(name: str, words: str) -> dict[str, object]:
        return {"Name": name, "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": words}

    half, single = "Channel major FP16 format where channel % 8 == 0", "Row major linear FP32"
    layers = [
        {"Name": "in", "LayerType": "Reformat", "Inputs": [tensor("x", single)], "Outputs": [tensor("a", half)]},
        {"Name": "fuse", "LayerType": "PluginV3", "Inputs": [tensor("a", half)], "Outputs": [tensor("b", half)]},
        {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [tensor("b", half)], "Outputs": [third]},
        {"Name": "out", "LayerType": "Reformat", "Inputs": [tensor("c", half)], "Outputs": [tensor("y", single)]},
    ]
    return json.dumps({"Layers": layers, "Bindings": ["x", "y"]})


def test_the_builders_listing_is_read():
    shape, move, logits = read_listing(LISTING)
    assert (shape.kind, shape.inputs, shape.outputs, shape.precision) == ("shape_call", (), (), "")
    assert (move.kind, move.inputs, move.outputs, move.precision) == ("kgen", ("image",), ("means.1",), "fp16")
    assert move.is_reformat
    assert (logits.inputs, logits.outputs, logits.precision) == (("means.1",), ("logits",), "fp32")
    assert logits.metadata == "[ONNX Layer: node_of_logits]"
    assert not logits.is_reformat


@pytest.mark.parametrize(
    "third",
    [{"Name": "c", "Format/Datatype": "Row major INT8 format"}, {"Name": "c", "Datatype": "Int8", "Format": ""}],
)
def test_the_inspectors_json_is_read(third):
    layers = read_inspector(inspector(**third))
    assert count_layers(layers) == {
        ("Reformat", "fp16"): 1,
        ("PluginV3", "fp16"): 1,
        ("CaskConvolution", "int8"): 1,
        ("Reformat", "fp32"): 1,
    }
    assert [layer.name for layer in reformats_around_plugins(layers)] == ["in"]


def test_an_engine_without_details_has_names_only():
    assert [layer.name for layer in read_inspector('{"Layers": ["a", "b"], "I/O Tensors": []}')] == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Float", "fp32"),
        ("Row major linear FP16 format", "fp16"),
        ("BFloat16", "bf16"),
        ("Row major linear BF16 format", "bf16"),
        ("Four wide channel vectorized row major INT8 format", "int8"),
        ("FP8", "fp8"),
        ("Int64", "int64"),
        ("UInt8", "uint8"),
        ("Row major Bool format", "bool"),
    ],
)
def test_tensorrts_words_for_a_type(words, precision):
    assert precision_of(words) == precision


def test_progress_counts_phases_inside_phases_and_never_goes_back():
    told: list[float] = []
    progress = Progress(lambda fraction, _: told.append(fraction))
    progress.start("build", None, 2)
    progress.start("clone", "build", 4)
    assert progress.step("clone", 0)
    assert told[-1] == pytest.approx(1 / 8)
    progress.step("clone", 3)
    assert told[-1] == pytest.approx(1 / 2)
    progress.finish("clone")
    progress.step("build", 0)
    progress.start("compile", "build", 10)
    assert told[-1] == pytest.approx(1 / 2)
    progress.finish("compile")
    progress.finish("build")
    assert told[-1] == 1.0
    assert told == sorted(told)


def test_a_stopped_build_is_told_at_its_next_step():
    progress = Progress(lambda fraction, _: None)
    progress.start("build", None, 2)
    progress.stop()
    assert progress.step("build", 0) is False
    assert progress.is_stopped
