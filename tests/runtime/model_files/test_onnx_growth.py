# SPDX-License-Identifier: Apache-2.0
"""What a file grows to is known before anything opens it."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.model_files.onnx_growth import check_growth
from freqfusion_runtime.predictors.opening import open_session
from growth import assert_linear
from onnx import TensorProto, helper, numpy_helper
from small_detectors import write_detector
from small_models import keep_weights_outside, write_image_model, write_tensor_model

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]


def model(nodes, functions=(), sparse=(), **constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
        sparse_initializer=list(sparse),
    )
    return helper.make_model(graph, opset_imports=OPSETS, functions=list(functions), ir_version=10)


def save(path, proto):
    path.write_bytes(proto.SerializeToString())
    return path


def doubling(depth):
    """Bodies that each call the one before twice."""
    bodies = [helper.make_function("acme", "F0", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], OPSETS)]
    for number in range(1, depth):
        inner = f"F{number - 1}"
        nodes = [
            helper.make_node(inner, ["a"], ["c"], domain="acme"),
            helper.make_node(inner, ["c"], ["b"], domain="acme"),
        ]
        bodies.append(helper.make_function("acme", f"F{number}", ["a"], ["b"], nodes, OPSETS))
    return model([helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="acme")], bodies)


@pytest.mark.parametrize("write", [write_image_model, write_tensor_model, lambda path: write_detector(path)])
def test_sound_files_pass(tmp_path, write):
    check_growth(write(tmp_path / "net.onnx"))
    check_growth(save(tmp_path / "bodies.onnx", doubling(10)))


def test_weights_in_another_file_pass(tmp_path):
    check_growth(keep_weights_outside(write_tensor_model(tmp_path / "net.onnx")))


def test_bodies_that_call_each_other_are_counted_before_they_are_put_in_place(tmp_path):
    path = save(tmp_path / "net.onnx", doubling(40))
    assert path.stat().st_size < 4000
    with pytest.raises(ModelFileError, match=r"net\.onnx grows to more than 1000000 nodes when its function bodies"):
        check_growth(path)
    with pytest.raises(ModelFileError, match="grows to more than 1000000 nodes"):
        open_session(path)


def test_a_body_that_calls_itself_is_refused(tmp_path):
    call = helper.make_node("F", ["a"], ["b"], domain="acme")
    path = save(tmp_path / "net.onnx", model([], [helper.make_function("acme", "F", ["a"], ["b"], [call], OPSETS)]))
    with pytest.raises(ModelFileError, match="has a function body that calls itself, acme::F"):
        check_growth(path)


def node(operator, *inputs, output="y", **attributes):
    return helper.make_node(operator, list(inputs), [output], **attributes)


def sparse(dims):
    values = numpy_helper.from_array(np.array([1.0], np.float32), "s")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0]), "i"), dims)


HUGE = [100_000, 100_000]
COLUMN, ROW = ([100_000, 1], [1, 100_000])
GROWING = {
    "constant of shape": model([node("ConstantOfShape", "huge")], huge=HUGE),
    "expand": model([node("Expand", "one", "huge")], one=[1.0], huge=HUGE),
    "expand of an input": model([node("Expand", "x", "huge")], huge=HUGE),
    "tile": model([node("Tile", "one", "times")], one=[1.0], times=[10**10]),
    "range": model([node("Range", "start", "limit", "step")], start=0, limit=10**10, step=1),
    "random": model([node("RandomNormal", shape=HUGE)]),
    "pad": model([node("Pad", "x", "pads")], pads=[0, 10**10]),
    "resize": model([node("Resize", "x", "", "", "sizes")], sizes=[1, 1, *HUGE]),
    "one hot": model([node("OneHot", "which", "depth", "values")], which=[1, 2], depth=10**10, values=[0.0, 1.0]),
    "a sum of a row and a column": model(
        [
            node("ConstantOfShape", "column", output="c"),
            node("ConstantOfShape", "row", output="r"),
            node("Add", "c", "r"),
        ],
        column=COLUMN,
        row=ROW,
    ),
    "a product of a column and a row": model(
        [
            node("ConstantOfShape", "column", output="c"),
            node("ConstantOfShape", "row", output="r"),
            node("MatMul", "c", "r"),
        ],
        column=COLUMN,
        row=ROW,
    ),
    "a shape that is computed": model(
        [
            node("Mul", "side", "side", output="square"),
            node("Unsqueeze", "square", "axis", output="sides"),
            node("Concat", "sides", "sides", output="shape", axis=0),
            node("ConstantOfShape", "shape"),
        ],
        side=1000,
        axis=[0],
    ),
    "many of them": model(
        [node("ConstantOfShape", "some", output=f"y{number}") for number in range(200)], some=[1000, 1000]
    ),
    "a sparse tensor": model([node("Neg", "s")], sparse=[sparse(HUGE)]),
    "inside a body": model(
        [node("F", "x", domain="acme")],
        [
            helper.make_function(
                "acme",
                "F",
                ["a"],
                ["b"],
                [
                    helper.make_node("Constant", [], ["s"], value_ints=HUGE),
                    helper.make_node("ConstantOfShape", ["s"], ["b"]),
                ],
                OPSETS,
            )
        ],
    ),
}


@pytest.mark.parametrize("kind", GROWING)
def test_what_a_node_makes_is_known_before_it_is_made(tmp_path, kind):
    path = save(tmp_path / "net.onnx", GROWING[kind])
    assert path.stat().st_size < 10_000
    with pytest.raises(ModelFileError, match=r"net\.onnx computes constants of more than 1024 MiB when it is opened"):
        check_growth(path)


def test_a_tensor_that_says_it_is_larger_than_its_bytes_is_refused(tmp_path):
    proto = model([node("Neg", "w")], w=[1.0, 2.0])
    proto.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(ModelFileError, match=r"its tensor 'w' has \d+ bytes for 1099511627776 elements"):
        check_growth(save(tmp_path / "net.onnx", proto))


def nested(depth):
    graph = helper.make_graph([node("Neg", "x")], "g", [], [])
    for _ in range(depth):
        graph = helper.make_graph([node("If", "c", then_branch=graph)], "g", [], [])
    return model([node("If", "c", then_branch=graph)])


@pytest.mark.parametrize("content", [b"\xff" * 20, b"\x3a\xff\xff\xff\xff\x0f", b"<html>" * 50])
def test_what_is_no_message_is_refused(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"net\.onnx is no ONNX model \(.*\)\. Write it again"):
        check_growth(tmp_path / "net.onnx")


def test_graphs_inside_each_other_are_refused_from_33_on(tmp_path):
    check_growth(save(tmp_path / "net.onnx", nested(31)))
    with pytest.raises(ModelFileError, match="it has graphs inside each other, more than 32 deep"):
        check_growth(save(tmp_path / "net.onnx", nested(32)))


def long_model(count):
    return model([node("Neg", "x", output=f"v{number}") for number in range(count)])


def test_the_work_grows_with_the_file_and_no_faster(tmp_path):
    files = {
        "nodes": long_model,
        "constants": lambda n: model([node("Neg", "x")], **{f"c{k}": [1, 2, 3] for k in range(n)}),
        "attributes": lambda n: model([node("RandomNormal", shape=[1] * 60 * n)]),
        "bodies": lambda n: doubling(n // 10),
        "calls": lambda n: model(
            [node("F", "x", output=f"v{k}", domain="acme") for k in range(n)],
            [helper.make_function("acme", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], OPSETS)],
        ),
    }

    def work(path):
        with contextlib.suppress(ModelFileError):  # bodies that call each other
            check_growth(path)

    for kind, make in files.items():
        assert_linear(work, lambda n, kind=kind, make=make: save(tmp_path / f"{kind}{n}.onnx", make(n)), 150)


def test_onnx_has_the_field_numbers_that_are_read_here():
    fields = onnx.SparseTensorProto.DESCRIPTOR.fields_by_name
    assert (fields["values"].number, fields["dims"].number) == (1, 3)
    fields = onnx.TensorProto.DESCRIPTOR.fields_by_name
    names = ("dims", "data_type", "int32_data", "int64_data", "name", "raw_data", "data_location")
    assert [fields[name].number for name in names] == [1, 2, 5, 7, 8, 9, 14]
