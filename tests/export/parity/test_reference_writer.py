# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of the gate: recorded on one machine, held against engines on another."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from engine_builds import needs_rtx
from freqfusion_export.errors import ExportError
from freqfusion_export.parity.reference_writer import operators_alone, save_reference
from freqfusion_export.parity.segmenter_parity import read_manifest
from freqfusion_runtime.agreement.reference_data import ReferenceData
from freqfusion_runtime.building.gate import Gate, alone_name
from freqfusion_runtime.building.gate_report import gate_lines
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import METADATA_KEY
from freqfusion_runtime.model_files.onnx_probe import inner_values, write_with_outputs
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from PIL import Image
from plans_without_a_gpu import play_plans

SMALL = {"long_side": 128, "short_side": 64}


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "waves.png"
    y, x = np.mgrid[:60, :90]
    Image.fromarray(np.stack([2 * x, 4 * y, x + y], axis=2).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def folder(checkpoint, photo, tmp_path_factory):
    """The exported file, made to scale pictures to 64 x 96, and its reference data by the command."""
    folder = tmp_path_factory.mktemp("reference")
    model = ir.load(checkpoint / "segnext.onnx")
    for node in model.graph:
        if node.op_type == "PrepareImage":
            for name, value in SMALL.items():
                node.attributes.add(ir.AttrInt64(name, value))
    manifest = read_manifest(checkpoint / "segnext.onnx")
    manifest = replace(manifest, preprocessing=replace(manifest.preprocessing, **SMALL))
    model.metadata_props[METADATA_KEY] = manifest.to_json()
    ir.save(model, folder / "net.onnx")
    arguments = ["parity", folder / "net.onnx", photo, "--checkpoint", checkpoint / "segnext.pth"]
    arguments += ["--noise-floor", 1, "--save-reference", folder / "reference.npz", "--json", folder / "parity.json"]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_the_noise_floor_has_both_sources_and_is_stored(folder):
    facts = json.loads((folder / "parity.json").read_text())
    bases, tf32 = facts["noise_floor"]
    assert (bases["source"], tf32["source"]) == ("NMF bases, seed 4", "TF32")  # the file has seed 3
    # Between two draws 8 to 15 % of the labels differ (SPEC section 7.3); TF32 keeps 11 bits, as fp16.
    assert 0.05 < bases["logit_rms"] < 0.5
    assert 0.5 < bases["measures"]["label_agreement"] < 0.99
    assert 1e-5 < tf32["logit_rms"] < 1e-2
    assert tf32["measures"]["label_agreement"] > 0.98
    assert set(tf32["measures"]) == {"label_agreement", "miou"}
    stored = ReferenceData(folder / "reference.npz").facts.noise_floor
    assert [entry.measures for entry in stored] == [bases["measures"], tf32["measures"]]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--save-reference", "file.zip"], "must end in .npz, got 'file.zip'"),
        (["--noise-floor", "-1"], "--noise-floor"),
        (["--noise-floor", "few"], "'few'"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(option, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["parity", "absent.onnx", "absent.png", "--checkpoint", "absent.pth", *option])
    assert message in capsys.readouterr().err


def test_it_holds_operators_network_and_labels_of_one_file(folder, checkpoint):
    data = ReferenceData(folder / "reference.npz")
    assert data.facts.onnx_sha256 == sha256_of(folder / "net.onnx")
    assert data.facts.checkpoint_sha256 == sha256_of(checkpoint / "segnext.pth")
    assert [entry.operator for entry in data.facts.operators].count("AdaptiveFilter") == 10
    assert len(data.facts.operators) == 16
    picture = data.picture(0)
    assert picture.photo.shape == (60, 90, 3)
    assert picture.labels.shape == (60, 90)
    assert picture.outputs["logits"].shape == (1, 150, 8, 12)
    assert {name for entry in data.facts.operators for name in (*entry.inputs, entry.output)} == set(picture.values)


@pytest.mark.long
@needs_rtx
@pytest.mark.parametrize("runs_on", ["ONNX Runtime", pytest.param("GPU", marks=pytest.mark.gpu)])
def test_build_verifies_a_real_network_from_operators_to_labels(folder, monkeypatch, capsys, runs_on):
    """TensorRT-RTX really builds all three engines; without a GPU, ONNX Runtime computes what they would."""
    monkeypatch.setenv("FREQFUSION_CACHE_DIR", str(folder / "cache"))
    plans = ["net.plan", "inside.plan", "operators.plan"]
    opened = play_plans(monkeypatch, folder / "net.onnx") if runs_on == "ONNX Runtime" else plans
    arguments = ["build", folder / "net.onnx", "--flavour", "tensorrt-rtx", "--opt", "1x60x90", "--json"]
    arguments += [folder / "build.json", "--verify", folder / "reference.npz", "--output", folder / "net.plan"]
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().out
    assert opened == plans
    gate = json.loads((folder / "build.json").read_text())["gate"]
    picture, together = gate["pictures"]
    assert [rung["reference"] for rung in together["rungs"]] == ["ONNX file", "PyTorch"]
    counts = {}
    for rung in picture["rungs"]:
        counts[rung["reference"], rung["level"]] = counts.get((rung["reference"], rung["level"]), 0) + 1
    per_file = {"preprocessing": 1, "layer": 12, "module": 4, "network": 1, "task": 1}
    expected = {("ONNX file", level): count for level, count in per_file.items()}
    assert counts == expected | {("PyTorch", level): count for level, count in (per_file | {"operator": 16}).items()}
    assert {entry["source"] for entry in gate["noise_floor"]} == {"NMF bases, seed 4", "TF32"}
    out = capsys.readouterr().out
    assert "GATE HOLDS" in out
    assert "NMF bases, seed 4" in out


def test_the_gate_names_the_first_value_that_is_off(folder, tmp_path):
    """A weight of the second FreqFusion module is changed: the first module still agrees."""
    model = onnx.load(folder / "net.onnx")
    producers = {output: node for node in model.graph.node for output in node.output}
    filters = [node for node in model.graph.node if node.op_type == "AdaptiveFilter"]
    weight = next(t for t in model.graph.initializer if t.name in producers[filters[5].input[1]].input)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    onnx.save(model, tmp_path / "spoiled.onnx")
    values = inner_values(folder / "net.onnx")
    write_with_outputs(tmp_path / "spoiled.onnx", [v.tensor for v in values], tmp_path / "probed.onnx")
    data = ReferenceData(folder / "reference.npz")
    gate = Gate(data.manifest, [], folder / "net.onnx", data)
    gate.check_inside(OnnxRuntimeSession(tmp_path / "probed.onnx"), values)
    (result,) = gate.results
    for reference in ("ONNX file", "PyTorch"):
        inside = [r for r in result.rungs if r.reference == reference and r.level in ("layer", "module")]
        broken = {r.name for r in inside if not r.agrees}
        assert f"AdaptiveFilter {filters[5].name}" in broken
        assert not any(name.startswith("decode_head.freqfusions.0") for name in broken)
        assert "decode_head.freqfusions.1.hr_out" in broken
    assert any(
        f"first value beyond its bound is layer AdaptiveFilter {filters[5].name}" in x for x in gate_lines([result])
    )


def test_operators_of_a_half_typed_file_are_given_what_its_types_hold(typed_file, segnext_t, photo, tmp_path):
    path = typed_file("fp16", "image")
    manifest = read_manifest(path)
    manifest = replace(manifest, preprocessing=replace(manifest.preprocessing, **SMALL))
    save_reference(tmp_path / "reference.npz", path, photo, segnext_t, manifest, [photo])
    data = ReferenceData(tmp_path / "reference.npz")
    (tmp_path / "operators.onnx").write_bytes(data.operator_model)
    onnx.checker.check_model(onnx.load(tmp_path / "operators.onnx"), full_check=True)
    picture = data.picture(0)
    assert set(picture.alone) == {entry.node for entry in data.facts.operators}
    needed = {name for entry in data.facts.operators for name in entry.inputs}
    session = OnnxRuntimeSession(tmp_path / "operators.onnx")
    found = session.run({name: picture.values[name] for name in needed})
    for entry in data.facts.operators:
        actual, expected = found[alone_name(entry.node)], picture.alone[entry.node]
        assert np.abs(actual - expected).max() <= 2.0**-10 * max(1.0, float(np.abs(expected).max())), entry
    gate = Gate(manifest, [], None, data)
    gate.check_operators(session)
    assert all(rung.agrees and rung.bounds["max_over_std"] < 0.01 for rung in gate.results[0].rungs)


def test_a_network_that_is_not_the_files_is_refused(checkpoint, segnext_t, photo, tmp_path):
    model = ir.load(checkpoint / "segnext.onnx")
    first = next(node for node in model.graph if node.op_type == "AdaptiveFilter")
    first.inputs[0].shape = ir.Shape(["batch", 7, None, None])
    ir.save(model, tmp_path / "other.onnx")
    manifest = read_manifest(checkpoint / "segnext.onnx")
    manifest = replace(manifest, preprocessing=replace(manifest.preprocessing, **SMALL))
    with pytest.raises(ExportError, match="is none of the operators that the model calls in PyTorch"):
        save_reference(tmp_path / "r.npz", tmp_path / "other.onnx", photo, segnext_t, manifest, [photo])
    assert not (tmp_path / "r.npz").exists()


def test_operators_alone_need_no_network(checkpoint, tmp_path):
    content = operators_alone(ir.load(checkpoint / "segnext.onnx"), read_manifest(checkpoint / "segnext.onnx"))
    assert len(content) < 1e6  # no weights
    model = onnx.load_from_string(content)
    produced = {output for node in model.graph.node for output in node.output}
    consumed = {name for node in model.graph.node if node.domain == "freqfusion" for name in node.input}
    assert not consumed & produced
    assert torch.is_grad_enabled()  # recording leaves no mode behind
