# SPDX-License-Identifier: Apache-2.0
"""Models with weights in other files: found beside the model, hashed with it, and never taken from elsewhere."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.errors import ModelFileError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.external_data import (
    WEIGHTS_KEY,
    check_external_files,
    external_files,
    model_sha256,
    stamp_of,
)
from freqfusion_runtime.model_files.manifest import write_sidecar
from freqfusion_runtime.model_files.onnx_probe import write_with_outputs
from freqfusion_runtime.predictors.opening import open_session
from onnx import TensorProto, helper
from small_models import keep_weights_outside, tensor_manifest, write_tensor_model

ONES = {"image": np.ones((1, 3, 32, 32), np.float32)}


@pytest.fixture
def model(tmp_path):
    (tmp_path / "models").mkdir()
    return keep_weights_outside(write_tensor_model(tmp_path / "models" / "net.onnx", operator="Echo"))


def test_a_model_in_one_file_has_no_other_and_its_own_hash(tmp_path):
    path = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    assert external_files(path) == ()
    assert model_sha256(path) == sha256_of(path)
    for content in (b"", b"no model at all", b"\x00" * 99):
        path.write_bytes(content)
        assert external_files(path) == ()


def test_weights_are_found_wherever_a_tensor_can_be(tmp_path):
    def outside(name):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", f"{name}.bin"), ("length", "4")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    branch = helper.make_graph([], "branch", [], [], [outside("in_subgraph")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=outside("in_attribute")),
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
    ]
    inner = [helper.make_node("Constant", [], ["z"], value=outside("in_function"))]
    function = helper.make_function("acme", "F", [], ["z"], inner, [helper.make_opsetid("", 18)])
    graph = helper.make_graph(nodes, "g", [], [], [outside("in_graph")])
    graph.sparse_initializer.append(onnx.SparseTensorProto(values=outside("sparse"), indices=outside("indices")))
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())
    names = {path.name for path in external_files(tmp_path / "a.onnx")}
    places = ("in_graph", "in_attribute", "in_subgraph", "in_function", "sparse", "indices")
    assert names == {f"{place}.bin" for place in places}


def test_weights_are_those_beside_the_model_and_not_those_of_the_current_folder(tmp_path, model, monkeypatch):
    expected = open_session(write_tensor_model(tmp_path / "whole.onnx", operator="Echo")).run(ONES)["logits"]
    data = model.with_name("net.data")
    (tmp_path / "net.data").write_bytes(bytes(data.stat().st_size))
    monkeypatch.chdir(tmp_path)
    message = r"net\.onnx keeps weights in net\.data, for which the manifest inside it does not vouch\. .*onnx\.save"
    with pytest.warns(UserWarning, match=message):
        session = open_session(model)
    np.testing.assert_array_equal(session.run(ONES)["logits"], expected)


def test_a_copy_with_further_outputs_takes_its_weights_along(tmp_path, model):
    (tmp_path / "probe").mkdir()
    write_with_outputs(model, ["means"], tmp_path / "probe" / "net.onnx")
    with pytest.warns(UserWarning, match="keeps weights in"):
        outputs = open_session(tmp_path / "probe" / "net.onnx").run(ONES)
    np.testing.assert_array_equal(outputs["means"], np.ones((1, 3, 4, 4), np.float32))


def test_hash_and_stamp_change_with_the_weights_outside(model):
    before, stamp = model_sha256(model), stamp_of(model)
    data = model.with_name("net.data")
    data.write_bytes(b"\x01" + data.read_bytes()[1:])
    assert model_sha256(model) != before
    assert stamp_of(model) != stamp


def test_inspect_tells_of_them_and_whether_the_manifest_beside_is_theirs(model, capsys):
    data = model.with_name("net.data")
    write_sidecar(model, tensor_manifest())
    assert main(["inspect", str(model), "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["external_files"] == [
        {"path": str(data), "size_bytes": data.stat().st_size, "sha256": sha256_of(data)}
    ]
    assert facts["manifest_beside"] == "net.json, of this file"
    data.write_bytes(b"\x01" + data.read_bytes()[1:])
    assert main(["inspect", str(model)]) == 0
    printed = capsys.readouterr().out
    assert "weights in net.data, 0.0 MB beside it" in printed
    assert "net.json, of ANOTHER file" in printed


@pytest.mark.parametrize("location", ["../net.data", "/tmp/net.data", "sub/../../net.data"])
def test_a_model_does_not_choose_what_else_is_read(tmp_path, model, location):
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location
    model.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match=r"net\.onnx keeps weights in '.*net\.data', outside its folder\. Save"):
        open_session(model)


def test_weights_that_are_missing_are_named(model):
    model.with_name("net.data").unlink()
    with pytest.raises(ModelFileError, match=r"net\.onnx keeps weights in net\.data, which is not beside it\. Put it"):
        open_session(model)
    with pytest.raises(ModelFileError, match="which is not beside it"):
        check_external_files(model)


def test_weights_that_end_too_early_are_named(model):
    data = model.with_name("net.data")
    size = data.stat().st_size
    data.write_bytes(data.read_bytes()[:-4])
    message = rf"net\.onnx keeps weights in net\.data, which has {size - 4} bytes of at least {size}\. Copy it again"
    with pytest.raises(ModelFileError, match=message):
        open_session(model)


def test_weights_that_a_model_knows_by_their_content_need_no_warning(tmp_path, capsys, recwarn):
    model = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    keep_weights_outside(model)
    data = model.with_name("net.data")
    digest = sha256_of(data)
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = f"net.{digest[:16]}.data"
    proto.metadata_props.add(key=WEIGHTS_KEY, value=digest)
    model.write_bytes(proto.SerializeToString())
    data = data.rename(tmp_path / f"net.{digest[:16]}.data")
    assert open_session(model).run(ONES)["logits"].any()
    assert not recwarn.list
    for content, word in ((data.read_bytes(), "as exported"), (bytes(data.stat().st_size), "OTHER than were exported")):
        data.write_bytes(content)
        assert main(["inspect", str(model)]) == 0
        assert f"MB beside it, {word}\n" in capsys.readouterr().out
