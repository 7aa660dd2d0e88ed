# SPDX-License-Identifier: Apache-2.0
"""Weights in a file beside the model: named after their content, whole or not there, and gone with their model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from freqfusion_export.weights_beside import weights_beside
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.external_data import external_files
from freqfusion_runtime.predictors.opening import open_session
from small_models import keep_weights_outside, write_tensor_model

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)


def network(tmp_path, scale=1.0):
    """A model, one of whose weights is large enough to go outside."""
    model = ir.load(write_tensor_model(tmp_path / "source.onnx"))
    large = np.full((1, 4, 16, 16), scale, np.float32)
    model.graph.register_initializer(ir.Value(name="large", const_value=ir.tensor(large, name="large")))
    logits = model.graph.outputs[0]
    scaled = ir.node("Mean", [model.graph.initializers["large"]])
    factor = ir.node("ReduceMean", [scaled.outputs[0]], {"keepdims": 1})
    product = ir.node("Mul", [logits, factor.outputs[0]])
    model.graph.extend([scaled, factor, product])
    result = product.outputs[0]
    logits.name, result.name = "unscaled", "logits"
    result.shape, result.type = logits.shape, logits.type
    model.graph.outputs[0] = result
    return model


def write(model, path):
    with weights_beside(model, path):
        ir.save(model, path)
    return external_files(path)


def test_a_model_computes_the_same_and_vouches_for_its_weights(tmp_path, recwarn):
    ir.save(network(tmp_path), tmp_path / "whole.onnx")
    (file,) = write(network(tmp_path), tmp_path / "net.onnx")
    assert file.name == f"net.{sha256_of(file)[:16]}.data"
    expected, found = (open_session(tmp_path / name).run({"image": IMAGE}) for name in ("whole.onnx", "net.onnx"))
    np.testing.assert_array_equal(found["logits"], expected["logits"])
    assert not recwarn.list


def test_other_weights_replace_those_before_and_nothing_else(tmp_path):
    (tmp_path / "net.data").write_text("somebody's")
    (tmp_path / "net2.0123456789abcdef.data").write_text("another model's")
    (first,) = write(network(tmp_path), tmp_path / "net.onnx")
    (again,) = write(network(tmp_path), tmp_path / "net.onnx")
    assert again == first
    (second,) = write(network(tmp_path, 2.0), tmp_path / "net.onnx")
    assert not first.exists()
    assert {file.name for file in tmp_path.glob("*.data")} == {"net.data", "net2.0123456789abcdef.data", second.name}


def test_weights_that_another_tool_moved_out_are_not_ours_to_remove(tmp_path):
    keep_weights_outside(write_tensor_model(tmp_path / "net.onnx"))
    write(network(tmp_path), tmp_path / "net.onnx")
    assert (tmp_path / "net.data").is_file()


def test_a_failure_leaves_what_was_there(tmp_path):
    (first,) = write(network(tmp_path), tmp_path / "net.onnx")
    for scale in (1.0, 2.0):
        with pytest.raises(RuntimeError), weights_beside(network(tmp_path, scale), tmp_path / "net.onnx"):
            raise RuntimeError
        assert list(tmp_path.glob("*.data")) == [first]
