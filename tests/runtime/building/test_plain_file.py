# SPDX-License-Identifier: Apache-2.0
"""Files of standard operators alone: what they compute, what they say of themselves, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from freqfusion_runtime import load
from freqfusion_runtime.building import plain_file
from freqfusion_runtime.building.plain_file import write_plain_file
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.errors import InputError, ModelFileError
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest
from freqfusion_runtime.predictors.opening import open_session
from small_models import write_image_model, write_tensor_model


def test_the_real_network_runs_without_a_domain_of_ours(exported, tmp_path):
    written = write_plain_file(exported["tensor"], tmp_path / "plain.onnx", opset=17, ir_version=8)
    model = onnx.load(written.path)
    assert ([entry.domain for entry in model.opset_import], model.ir_version, written.opset) == ([""], 8, 17)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert max(entry.max_over_std for entry in written.comparisons) < 1e-5
    assert len(written.comparisons) == 2  # two sizes, two batches
    # The manifest goes with it, and says that there is nothing for kernels.
    session = open_session(written.path, kernels="auto")
    assert session.operator_paths == ()
    assert session.manifest.opset == 17
    told = json.loads((tmp_path / "plain.json").read_text())
    assert (told["operators"], told["opset"]) == ({}, 17)
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 96), np.float32)
    before = open_session(exported["tensor"], kernels="never").run({"images": images})["logits"]
    np.testing.assert_allclose(session.run({"images": images})["logits"], before, rtol=0, atol=1e-5 * before.std())


def test_with_fixed_sizes_what_is_constant_is_computed(exported, tmp_path):
    free = write_plain_file(exported["tensor"], tmp_path / "free.onnx")
    fixed = write_plain_file(exported["tensor"], tmp_path / "fixed.onnx", shapes={"images": (1, 3, 64, 96)})
    assert fixed.nodes < free.nodes / 2
    model = onnx.load(fixed.path)
    assert "Shape" not in {node.op_type for node in model.graph.node}
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [1, 150, 8, 12]
    session = open_session(fixed.path)
    assert session.manifest.inputs[0].shape == (1, 3, 64, 96)
    with pytest.raises(
        InputError, match=r"must have shape \(1, 3, 64, 96\), got \(1, 3, 96, 96\)\. Reshape it, or export"
    ):
        session.run({"images": np.zeros((1, 3, 96, 96), np.float32)})


def test_pictures_are_labelled_alike(exported, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    write_plain_file(exported["image"], tmp_path / "plain.onnx")
    expected = load(exported["image"], kernels="never").predict(picture).labels
    np.testing.assert_array_equal(load(tmp_path / "plain.onnx").predict(picture).labels, expected)


def test_a_file_of_others_has_no_manifest_and_gets_none(tmp_path):
    source = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.save(model, source)
    (tmp_path / "net.json").unlink(missing_ok=True)
    written = write_plain_file(source, tmp_path / "plain.onnx")
    assert written.manifest is None
    assert not (tmp_path / "plain.json").exists()
    assert main(["inspect", str(written.path)]) == 0


def test_what_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    source = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    right = plain_file.inlined

    def wrong(model, name):
        plain = right(model, name)
        bias = next(tensor for tensor in plain.graph.initializer if tensor.name == "bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.01, "bias"))
        return plain

    monkeypatch.setattr(plain_file, "inlined", wrong)
    with pytest.raises(ModelFileError, match=r"computes something else: logits of image .* is off by .* deviations"):
        write_plain_file(source, tmp_path / "plain.onnx")
    assert not (tmp_path / "plain.onnx").exists()
    labels = write_image_model(tmp_path / "image.onnx")
    monkeypatch.setattr(
        plain_file, "inlined", lambda model, name: onnx.load(write_image_model(tmp_path / "up.onnx", upscale=1))
    )
    assert write_plain_file(labels, tmp_path / "plain.onnx").comparisons


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": {"picture": (1, 3, 64, 64)}}, r"has no input 'picture'; its inputs are image\. Name one of them"),
        (
            {"shapes": {"image": (1, 4, 64, 64)}},
            "has the sides batch x 3 x height x width, which cannot be 1 x 4 x 64 x 64",
        ),
        ({"opset": 12}, "has opset 18; it can be written for 13 to 18, not for 12"),
        ({"ir_version": 3}, "has IR version 10; it can be written for 4 to 10, not for 3"),
    ],
)
def test_what_cannot_be_written_is_said(options, message, tmp_path):
    source = write_tensor_model(tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match=message):
        write_plain_file(source, tmp_path / "plain.onnx", **options)
    assert not (tmp_path / "plain.onnx").exists()


def test_files_that_are_none_are_named(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"net\.onnx"):
        write_plain_file(tmp_path / "net.onnx", tmp_path / "plain.onnx")
    with pytest.raises(ModelFileError, match=r"the output must end in \.onnx, got .*plain\.bin"):
        write_plain_file(write_tensor_model(tmp_path / "good.onnx"), tmp_path / "plain.bin")


def test_nothing_compared_is_no_agreement(tmp_path):
    empty = np.zeros((1, 0), np.float32)
    with pytest.raises(ModelFileError, match=r"net\.onnx: logits has no values\. Give larger sides"):
        plain_file._held("logits", empty, empty, tmp_path / "net.onnx")


def test_the_commands_write_it(tmp_path, capsys):
    source = write_tensor_model(tmp_path / "net.onnx", operator="Echo")
    arguments = [
        "inline",
        str(source),
        "-o",
        str(tmp_path / "plain.onnx"),
        "--shape",
        "image=1x3x64xwidth",
        "--json",
        "-",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert (facts["opset"], facts["nodes"]) == (18, 2)
    assert "off by" in printed.err
    with pytest.raises(SystemExit, match="2"):
        main(["inline", str(source), "-o", str(tmp_path / "p.onnx"), "--shape", "image=1x0x2"])
    assert "must be NAME=SIDExSIDEx" in capsys.readouterr().err


def test_export_writes_it_at_once(exported, checkpoint, tmp_path, monkeypatch, capsys):
    from freqfusion_export import exporter

    def copy(model, path, **options):
        shutil.copy(exported["tensor"], path)
        entry = next(entry for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
        return Manifest.from_json(entry.value)

    monkeypatch.setattr(exporter, "export", copy)
    arguments = ["export", str(checkpoint / "segnext.pth"), "--output", str(tmp_path / "plain.onnx")]
    assert main([*arguments, "--functions", "inline", "--opset", "17"]) == 0
    assert "opset 17, IR version 10" in capsys.readouterr().out
    assert not onnx.load(tmp_path / "plain.onnx").functions
    assert json.loads((tmp_path / "plain.json").read_text())["operators"] == {}
    assert main([*arguments, "--opset", "17"]) == 2
    assert "--opset is about files of standard operators alone. Add --functions inline." in capsys.readouterr().err
