# SPDX-License-Identifier: Apache-2.0
"""`freqfusion build --verify` to its end: TensorRT-RTX builds the plans, ONNX Runtime computes what they would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_builds import build, needs_rtx, record_of
from freqfusion_runtime.agreement.noise import NoiseEntry
from freqfusion_runtime.agreement.reference_data import (
    ReferenceFacts,
    ReferenceOperator,
    ReferencePicture,
    write_reference_data,
)
from freqfusion_runtime.building.gate import network_inputs
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.engines.record import Verification
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import Preprocessing, TensorSpec
from freqfusion_runtime.predictors.segmenter import Segmenter
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from onnx import numpy_helper
from PIL import Image
from plans_without_a_gpu import play_plans
from small_detectors import write_detector
from small_models import tensor_manifest, write_image_model, write_tensor_model

pytestmark = needs_rtx
PLAN = "net.tensorrt-rtx.plan"
PROFILE = ("--min", "1x32x32", "--opt", "1x512x768", "--max", "1x512x768")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FREQFUSION_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def photo(tmp_path) -> Path:
    y, x = np.mgrid[:64, :96]
    path = tmp_path / "photo.png"
    Image.fromarray(np.stack([2 * x, 4 * y, 255 - 2 * x], axis=-1).astype(np.uint8)).save(path)
    return path


def another_class_wins(model: onnx.ModelProto, by: float = 9) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "bias":
            values = numpy_helper.to_array(tensor) + np.array([by, 0, 0, 0], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, "bias"))


def boxes_are_moved(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "shares":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.9), "shares"))


def cached_plans(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "engines").glob("*.plan"))


@pytest.mark.parametrize("write", [write_tensor_model, write_image_model])
def test_an_engine_that_computes_the_same_is_kept(tmp_path, photo, monkeypatch, capsys, write):
    model = write(tmp_path / "net.onnx")
    opened = play_plans(monkeypatch, model)
    status, facts = build(model, "--verify", str(photo), sizes=PROFILE)
    assert status == 0
    assert opened == [PLAN]  # no FreqFusion node, nothing to look inside for
    assert (tmp_path / PLAN).is_file()
    assert facts["gate"]["agrees"] is True
    assert "GATE HOLDS" in capsys.readouterr().out
    assert len(cached_plans(tmp_path)) == 1
    verified = Verification(pictures=1, against_sha256=sha256_of(model), reference_sha256=None)
    assert record_of(tmp_path / PLAN).verified == verified
    assert main(["inspect", str(tmp_path / PLAN)]) == 0
    assert f"verified on 1 picture, against an ONNX file with sha256 {sha256_of(model)[:12]}" in capsys.readouterr().out
    build(model, sizes=PROFILE)  # the same bytes, from the cache
    assert record_of(tmp_path / PLAN).verified == verified


def test_an_engine_that_was_not_asked_to_is_not_verified(tmp_path, capsys):
    model = write_image_model(tmp_path / "net.onnx")
    build(model, sizes=PROFILE)
    assert record_of(tmp_path / PLAN).verified is None
    main(["inspect", str(tmp_path / PLAN)])
    assert "not verified by the gate" in capsys.readouterr().out
    sidecar = tmp_path / "net.tensorrt-rtx.json"
    told = json.loads(sidecar.read_text())
    del told["engine"]["verified"]  # as manifests were before there was a record of it
    sidecar.write_text(json.dumps(told))
    assert record_of(tmp_path / PLAN).verified is None


@pytest.mark.parametrize("write", [write_tensor_model, write_image_model])
def test_an_engine_that_computes_something_else_is_deleted(tmp_path, photo, monkeypatch, capsys, write):
    model = write(tmp_path / "net.onnx")
    play_plans(monkeypatch, model, spoil=another_class_wins)
    status, facts = build(model, "--verify", str(photo), sizes=PROFILE)
    assert status == 1
    assert not list(tmp_path.glob("*.plan"))
    assert not (tmp_path / "net.tensorrt-rtx.json").exists()
    assert not cached_plans(tmp_path)
    assert (facts["path"], facts["gate"]["agrees"]) == (None, False)
    out = capsys.readouterr().out
    assert f"GATE BROKEN: the engine was not kept, and {tmp_path / PLAN} is not this engine" in out
    assert "<-- beyond" in out


def test_a_cached_engine_is_proved_too_and_forgotten_where_it_fails(tmp_path, photo, monkeypatch):
    model = write_image_model(tmp_path / "net.onnx")
    assert build(model, sizes=PROFILE)[0] == 0  # without the gate: published and cached
    assert len(cached_plans(tmp_path)) == 1
    play_plans(monkeypatch, model, spoil=another_class_wins)
    status, facts = build(model, "--verify", str(photo), sizes=PROFILE)
    assert (status, facts["cache"]["hit"]) == (1, True)
    assert not cached_plans(tmp_path)
    assert not (tmp_path / PLAN).exists()  # it was this very engine
    assert facts["gate"]["earlier_engine_stays"] is False


def test_an_earlier_engine_survives_one_that_fails_and_is_not_taken_for_it(tmp_path, photo, monkeypatch, capsys):
    model = write_image_model(tmp_path / "net.onnx")
    assert build(model, sizes=PROFILE)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / PLAN, tmp_path / "net.tensorrt-rtx.json")}
    changed = onnx.load(model)
    another_class_wins(changed, by=0.1)  # a later export of the same name
    onnx.save(changed, model)
    play_plans(monkeypatch, model, spoil=another_class_wins)
    status, facts = build(model, "--verify", str(photo), sizes=PROFILE)
    assert status == 1
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    told = json.loads(before["net.tensorrt-rtx.json"])
    assert told["engine"]["onnx_sha256"] != sha256_of(model)  # whoever asks can see that it is of another file
    assert (facts["path"], facts["gate"]["earlier_engine_stays"]) == (None, True)
    assert "is still the engine that was there before" in capsys.readouterr().out
    assert len(cached_plans(tmp_path)) == 1  # the earlier one's


def write_reference(model: Path, folder: Path, photo: Path, shift: float = 0.0) -> Path:
    """Reference data for the small model with a node `LocalSimilarity` that changes nothing, as its body says."""
    alone = onnx.load(model)
    graph = alone.graph
    node = next(n for n in graph.node if n.op_type == "LocalSimilarity")
    name = node.input[0]
    del graph.node[:], graph.input[:], graph.output[:], graph.initializer[:]
    graph.node.append(node)
    graph.node[0].output[0] = "echo.alone"
    shape = ["n", 4, "h", "w"]
    graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    graph.output.append(onnx.helper.make_tensor_value_info("echo.alone", onnx.TensorProto.FLOAT, shape))
    ports = [TensorSpec(port, "float32", ("n", 4, "h", "w")) for port in (name, "echo.alone")]
    plan = Preprocessing(size_divisor=1)
    record = tensor_manifest(task="network", preprocessing=plan, inputs=ports[:1], outputs=ports[1:])
    onnx.helper.set_model_props(alone, {"freqfusion_manifest": record.to_json()})
    session = OnnxRuntimeSession(model, kernels="never")
    segmentation = Segmenter(session).predict(photo)
    logits = session.run(network_inputs(session.manifest, segmentation.photo))["logits"]
    picture = ReferencePicture(
        "reference.png",
        segmentation.photo,
        {name: logits, "logits": logits + np.float32(shift)},
        {},
        {"logits": logits},
        segmentation.labels,
    )
    facts = ReferenceFacts(
        onnx_file=model.name,
        onnx_sha256=sha256_of(model),
        checkpoint_file="net.pth",
        checkpoint_sha256="0" * 64,
        manifest=session.manifest.to_json(),
        operators=(ReferenceOperator("echo", "LocalSimilarity", (name,), "logits"),),
        noise_floor=(NoiseEntry("TF32", "reference.png", 1e-3, 1e-4, {"label_agreement": 0.999, "miou": 0.99}),),
    )
    path = folder / "reference.npz"
    write_reference_data(path, facts, alone.SerializeToString(), [picture])
    return path


@pytest.fixture
def no_kernels(monkeypatch, tmp_path):
    """The small model's LocalSimilarity is none but by its body."""
    monkeypatch.setenv("FREQFUSION_LIBRARY_DIR", str(tmp_path))


def test_reference_data_are_held_against_operators_network_and_labels(tmp_path, photo, monkeypatch, no_kernels, capsys):
    model = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    reference = write_reference(model, tmp_path, photo)
    opened = play_plans(monkeypatch, model)
    status, facts = build(model, "--verify", str(reference), sizes=PROFILE)
    out = capsys.readouterr().out
    assert status == 0, out
    assert opened == [PLAN, "operators.plan"]  # the node's result is an output of the model already
    picture, together = facts["gate"]["pictures"]
    assert [(rung["reference"], rung["measures"]) for rung in together["rungs"]] == [
        ("ONNX file", {"miou": 1.0}),
        ("PyTorch", {"miou": 1.0}),
    ]
    levels = [(rung["reference"], rung["level"]) for rung in picture["rungs"]]
    assert levels == [("ONNX file", "network"), ("ONNX file", "task")] + [
        ("PyTorch", level) for level in ("operator", "network", "task")
    ]
    assert facts["gate"]["noise_floor"][0]["source"] == "TF32"
    assert record_of(tmp_path / PLAN).verified.reference_sha256 == sha256_of(reference)
    assert "PyTorch against itself" in out
    assert "TF32" in out


def test_an_operator_that_is_off_alone_breaks_the_gate(tmp_path, photo, monkeypatch, no_kernels, capsys):
    model = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    reference = write_reference(model, tmp_path, photo, shift=0.1)
    play_plans(monkeypatch, model)
    status, facts = build(model, "--verify", str(reference), sizes=PROFILE)
    assert status == 1
    broken = [r["level"] for r in facts["gate"]["pictures"][0]["rungs"] if not r["agrees"]]
    assert broken == ["operator"]
    assert not (tmp_path / PLAN).exists()


def test_reference_data_of_another_file_are_refused_before_the_build(tmp_path, photo, monkeypatch, capsys):
    model = write_tensor_model(tmp_path / "net.onnx", operator="LocalSimilarity")
    reference = write_reference(model, tmp_path, photo)
    other = write_image_model(tmp_path / "other.onnx")
    play_plans(monkeypatch, other)
    assert build(other, "--verify", str(reference))[0] == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "holds what PyTorch computed for net.onnx with sha256" in line
    assert "--save-reference" in line
    assert build(other, "--verify", str(reference), str(reference))[0] == 2
    assert "--verify takes one file of reference data" in capsys.readouterr().err


def test_a_picture_that_the_engine_would_not_take_is_refused_before_the_build(tmp_path, photo, monkeypatch, capsys):
    model = write_image_model(tmp_path / "net.onnx")
    opened = play_plans(monkeypatch, model)
    assert build(model, "--verify", str(photo), sizes=("--opt", "1x32x32"))[0] == 2
    assert "image 1x64x96x3 lies outside every profile" in capsys.readouterr().err
    assert not opened
    assert not cached_plans(tmp_path)


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "panoptic_segmentation"])
def test_models_that_find_objects_pass_or_are_deleted_too(tmp_path, photo, monkeypatch, task):
    model = write_detector(tmp_path / "net.onnx", task, "image")
    play_plans(monkeypatch, model)
    status, facts = build(model, "--verify", str(photo), sizes=PROFILE)
    assert status == 0
    assert "object_agreement" in facts["gate"]["pictures"][0]["rungs"][0]["measures"]
    play_plans(monkeypatch, model, spoil=boxes_are_moved)
    status, _ = build(model, "--verify", str(photo), sizes=PROFILE)
    assert status == 1
    assert not (tmp_path / PLAN).exists()
    assert not cached_plans(tmp_path)
