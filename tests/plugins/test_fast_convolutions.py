# SPDX-License-Identifier: Apache-2.0
"""Convolutions of our own kernel in place of the standard ones: which, with what result, and the rest untouched."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from compiled_libraries import cpu_libraries
from freqfusion_runtime.sessions.fast_convolutions import FOLDER_ENTRY, MIN_CHANNELS, OPERATOR, with_fast_convolutions
from one_node_models import kernel_counts
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.numerics

C = MIN_CHANNELS
PLAIN = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}


def weights(*shape, dtype=np.float32):
    generator = np.random.default_rng(list(shape))
    return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(dtype)


def model(nodes, outputs, tensors, domain="freqfusion"):
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", C, "h", "w"])],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(proto, {"key": "value"})
    return proto


def conv(source, result, name="c", inputs=3, **changes):
    attributes = {key: value for key, value in {**PLAIN, **changes}.items() if value is not None}
    return helper.make_node("Conv", [source, f"w_{name}", f"b_{name}"][:inputs], [result], name=name, **attributes)


def tensors(name="c", out=C, channels=C, **shape):
    return {f"w_{name}": weights(out, channels, 3, 3), f"b_{name}": weights(out)}


def rewritten(proto, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    found = with_fast_convolutions(path)
    return None if found is None else onnx.load_from_string(found.content)


def run(proto, x, library=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def products(tmp_path):
    """A model of a convolution and a product, whose factor has an odd place in the file."""
    factor = np.random.default_rng(1).standard_normal((128, 130)).astype(np.float32)
    nodes = [
        conv("x", "a"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "factor"], ["y"]),
    ]
    proto = model(nodes, ["y"], {"factor": factor, **tensors()})
    place = proto.SerializeToString().index(factor.tobytes())
    proto.producer_name = "x" * (4 if place % 2 else 3)  # with the field's two bytes before it, an odd sum
    assert proto.SerializeToString().index(factor.tobytes()) % 2
    return proto


def opened(found, library):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(FOLDER_ENTRY, found.folder)
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(found.content, options, providers=["CPUExecutionProvider"])


def test_large_factors_stay_in_the_file_and_are_read_from_there(tmp_path):
    proto = products(tmp_path)
    onnx.save(proto, tmp_path / "m.onnx")
    found = with_fast_convolutions(tmp_path / "m.onnx")
    assert {t.name: t.data_location for t in onnx.load_from_string(found.content).graph.initializer} == {
        "factor": TensorProto.EXTERNAL,
        "w_c": TensorProto.DEFAULT,
        "b_c": TensorProto.DEFAULT,
    }
    x = np.random.default_rng(0).standard_normal((1, C, 6, 6)).astype(np.float32)
    session = opened(found, cpu_libraries() / "libfreqfusion_onnxruntime.so")
    # Whoever writes over the file once it is open changes nothing, nor ends the process.
    (tmp_path / "m.onnx").write_bytes(b"")
    np.testing.assert_allclose(session.run(None, {"x": x})[0], run(proto, x)[0], rtol=0, atol=2e-5)


def test_a_link_to_a_file_elsewhere_is_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    onnx.save(products(tmp_path), tmp_path / "blobs" / "0f3a")
    (tmp_path / "m.onnx").symlink_to(tmp_path / "blobs" / "0f3a")
    opened(with_fast_convolutions(tmp_path / "m.onnx"), cpu_libraries() / "libfreqfusion_onnxruntime.so")


def test_weights_beside_the_model_are_read_from_its_folder(tmp_path, monkeypatch):
    proto = products(tmp_path)
    x = np.random.default_rng(0).standard_normal((1, C, 6, 6)).astype(np.float32)
    expected = run(proto, x)[0]
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").write_bytes(bytes((path.parent / "m.data").stat().st_size))
    monkeypatch.chdir(tmp_path)
    session = opened(with_fast_convolutions("models/m.onnx"), cpu_libraries() / "libfreqfusion_onnxruntime.so")
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 14, 14), (2, 7, 33), (1, 40, 5), (0, 4, 4)], ids=str)
def test_results_are_those_of_the_standard_operator(size, tmp_path):
    n, h, w = size
    nodes = [conv("x", "a"), helper.make_node("Relu", ["a"], ["y"]), conv("y", "b", "d"), conv("b", "z", "e", inputs=2)]
    proto = model(nodes, ["z"], tensors() | tensors("d") | tensors("e", C + 5))
    x = np.random.default_rng(0).standard_normal((n, C, h, w)).astype(np.float32)
    library = cpu_libraries() / "libfreqfusion_onnxruntime.so"
    before = kernel_counts(library)
    (actual,) = run(rewritten(proto, tmp_path), x, library)
    assert kernel_counts(library)["Convolve3x3/cpu"] == before["Convolve3x3/cpu"] + 3
    (expected,) = run(proto, x) if n else (np.zeros((0, C + 5, h, w), np.float32),)
    assert actual.shape == expected.shape
    # 1152 products of numbers near 1 with weights near 1/34: sums near 1, off by a few units in the last place each.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)


def test_everything_else_stays_as_it_is(tmp_path):
    nodes = [conv("x", "a"), helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Sigmoid", ["y"], ["z"])]
    proto = model(nodes, ["z"], tensors())
    found = rewritten(proto, tmp_path)
    assert [node.op_type for node in found.graph.node] == [OPERATOR, "Sigmoid"]
    node = found.graph.node[0]
    assert (node.domain, node.name, list(node.input), list(node.output)) == (
        "freqfusion",
        "c",
        ["x", "w_c", "b_c"],
        ["y"],
    )
    assert [(a.name, helper.get_attribute_value(a)) for a in node.attribute] == [("relu", 1)]
    del found.graph.node[0]
    del proto.graph.node[:2]
    assert found == proto


def test_a_result_that_more_than_the_relu_reads_is_kept(tmp_path):
    relu = helper.make_node("Relu", ["a"], ["y"])
    twice = model([conv("x", "a"), relu, helper.make_node("Add", ["a", "y"], ["z"])], ["z"], tensors())
    assert Counter(n.op_type for n in rewritten(twice, tmp_path).graph.node) == {OPERATOR: 1, "Relu": 1, "Add": 1}
    output = model([conv("x", "a"), relu], ["y", "a"], tensors())
    assert Counter(n.op_type for n in rewritten(output, tmp_path).graph.node) == {OPERATOR: 1, "Relu": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": [2, 2]},
        {"pads": [0, 0, 0, 0]},
        {"pads": None},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"auto_pad": "SAME_UPPER", "pads": None},
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(changes, tmp_path):
    assert rewritten(model([conv("x", "a", **changes)], ["a"], tensors()), tmp_path) is None


def test_few_channels_half_types_and_computed_weights_are_left_alone(tmp_path):
    few = model([conv("x", "a")], ["a"], tensors(out=C - 1))
    half = model([conv("x", "a")], ["a"], {name: value.astype(np.float16) for name, value in tensors().items()})
    computed = model([helper.make_node("Neg", ["w"], ["w_c"]), conv("x", "a")], ["a"], {"w": weights(C, C, 3, 3)})
    undeclared = model([conv("x", "a")], ["a"], tensors(), domain=None)
    for proto in (few, half, computed, undeclared):
        assert rewritten(proto, tmp_path) is None


def test_packed_and_defaulted_attributes_are_understood(tmp_path):
    plain = conv("x", "a", strides=None, dilations=None, group=None, kernel_shape=None)
    assert rewritten(model([plain], ["a"], tensors()), tmp_path).graph.node[0].op_type == OPERATOR


def test_a_file_that_is_no_message_is_told(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(model([conv("x", "a")], ["a"], tensors()), path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"^is not a protobuf message: it ends inside a field$"):
        with_fast_convolutions(path)


def test_a_node_whose_weights_are_computed_is_refused(tmp_path):
    library = cpu_libraries() / "libfreqfusion_onnxruntime.so"
    proto = rewritten(model([conv("x", "a")], ["a"], tensors()), tmp_path)
    proto.graph.input.append(helper.make_tensor_value_info("w_c", TensorProto.FLOAT, [C, C, 3, 3]))
    del proto.graph.initializer[0]
    with pytest.raises(Exception, match="Convolve3x3: weights must be a constant of the model"):
        run(proto, np.zeros((1, C, 2, 2), np.float32), library)
