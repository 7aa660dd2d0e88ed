# SPDX-License-Identifier: Apache-2.0
"""The gate holds real sessions against each other. ONNX Runtime plays the engine, since a plan needs a GPU."""

from __future__ import annotations

import json
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from freqfusion_runtime.agreement.tolerances import LOGIT_BOUNDS, TASK_BOUNDS
from freqfusion_runtime.building.gate import Gate
from freqfusion_runtime.building.gate_report import gate_facts, gate_lines
from freqfusion_runtime.building.ladder import PictureGate, Rung
from freqfusion_runtime.building.publication import delete_same
from freqfusion_runtime.engines.errors import GateError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import Precision
from freqfusion_runtime.model_files.onnx_probe import inner_values, write_with_outputs
from freqfusion_runtime.predictors.segmenter import Segmenter
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from freqfusion_runtime.sessions.protocol import Session
from onnx import numpy_helper
from PIL import Image
from small_detectors import Objects, write_detector
from small_models import image_manifest, tensor_manifest, write_image_model, write_tensor_model

# What the small model of the image interface calls sky and tree.
COLOURS = np.array([[60, 60, 250], [20, 250, 20]])
WRITERS = {"tensor": (write_tensor_model, tensor_manifest), "image": (write_image_model, image_manifest)}


@pytest.fixture
def picture(tmp_path) -> Path:
    y, x = np.mgrid[:60, :90]
    photo = np.stack([2 * x, 4 * y, 255 - 2 * x], axis=-1).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


def session(folder: Path, interface: str, bias: float = 0.0, precision: str = "fp32") -> Session:
    """The small model; ``bias`` is added to the first class's score and so changes labels."""
    write, manifest = WRITERS[interface]
    path = write(folder / f"{interface}{bias}{precision}.onnx", replace(manifest(), precision=precision))
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "bias":
            values = numpy_helper.to_array(tensor) + np.array([bias, 0, 0, 0], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, "bias"))
    onnx.save(model, path)
    return OnnxRuntimeSession(path)


def check(engine: Session, onnx_file: Session, pictures: list[Path], labels: Path | None = None) -> list[PictureGate]:
    gate = Gate(engine.manifest, pictures, onnx_file.path, label_maps=labels)
    gate.check_engine(engine)
    return gate.results


@pytest.mark.parametrize("interface", WRITERS)
def test_the_same_network_passes(tmp_path, picture, interface):
    result, together = check(session(tmp_path, interface), session(tmp_path, interface), [picture])
    assert result.agrees
    assert (together.picture, together.rungs[0].measures, together.rungs[0].bounds) == (
        "all pictures",
        {"miou": 1.0},
        {"miou": 0.99},
    )
    levels = [(rung.reference, rung.level) for rung in result.rungs]
    assert levels == [("ONNX file", "network")] * (interface == "tensor") + [("ONNX file", "task")]
    assert result.rungs[-1].measures == {"label_agreement": 1.0, "miou": 1.0}


@pytest.mark.parametrize("interface", WRITERS)
def test_another_network_does_not(tmp_path, picture, interface):
    result, together = check(session(tmp_path, interface, bias=2.0), session(tmp_path, interface), [picture])
    assert not result.agrees
    assert not together.agrees
    assert not any(rung.agrees for rung in result.rungs)
    assert any("<-- beyond" in line for line in gate_lines([result]))
    assert gate_facts([result])[0]["rungs"][-1]["bounds"]["label_agreement"] == 0.999


def test_scores_that_are_no_numbers_are_a_wrong_answer_and_no_failure_of_ours(tmp_path, picture):
    (result,) = check(session(tmp_path, "tensor", bias=np.nan), session(tmp_path, "tensor"), [picture])
    assert [rung.agrees for rung in result.rungs] == [False, False]
    assert "infinite or not a number" in result.rungs[-1].note
    assert any("infinite or not a number" in line and "<-- beyond" in line for line in gate_lines([result]))
    json.dumps(gate_facts([result]), allow_nan=False)
    assert gate_facts([result])[0]["rungs"][0]["measures"]["max_over_std"] is None


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "panoptic_segmentation"])
def test_models_that_find_objects_are_compared_object_by_object(tmp_path, picture, task):
    right = OnnxRuntimeSession(write_detector(tmp_path / "right.onnx", task))
    (result,) = check(right, right, [picture])
    assert result.agrees
    measured = {
        "detection": {"object_agreement", "max_score_difference"},
        "instance_segmentation": {"object_agreement", "max_score_difference", "mean_mask_iou"},
        "panoptic_segmentation": {"object_agreement", "max_score_difference", "mean_mask_iou", "panoptic_quality"},
    }
    assert set(result.rungs[0].measures) == set(result.rungs[0].bounds) == measured[task]
    wrong = OnnxRuntimeSession(write_detector(tmp_path / "wrong.onnx", task, objects=Objects(scores=(0.9, 0.699))))
    (result,) = check(wrong, right, [picture])
    assert not result.agrees
    assert result.rungs[0].measures["max_score_difference"] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_finding_nothing_on_both_sides_proves_nothing(tmp_path, picture, task):
    silent = OnnxRuntimeSession(write_detector(tmp_path / "silent.onnx", task, objects=Objects((), (), ())))
    _, together = check(silent, silent, [picture])
    assert not together.agrees
    assert "neither finds an object in any picture, so none was compared" in together.rungs[0].note
    assert any("all pictures" in line and "<-- beyond" in line for line in gate_lines([together]))
    json.dumps(gate_facts([together]), allow_nan=False)


def test_a_bound_belongs_to_the_files_precision(tmp_path, picture):
    result, together = check(session(tmp_path, "image", precision="fp16"), session(tmp_path, "image"), [picture])
    assert result.rungs[0].bounds == {"label_agreement": 0.995}
    assert together.rungs[0].bounds == {"miou": 0.99}


def test_miou_is_that_of_all_pictures_together(tmp_path):
    """In the second picture one pixel of 6000 has another label, the only one of its class there."""
    shapes = ((60, 90), (60, 100))
    truth = [np.zeros(shape, np.int32) for shape in shapes]
    truth[0][:30], truth[1][0, 0] = 1, 1
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    engine = session(tmp_path, "image")
    for path, labels in zip(paths, truth, strict=True):
        # Colours that the small model gives class 0 and class 1.
        Image.fromarray(np.where(labels[..., None] == 1, COLOURS[1], COLOURS[0]).astype(np.uint8)).save(path)
    found = [Segmenter(engine).predict(path).labels for path in paths]
    assert [np.unique(labels).tolist() for labels in found] == [[0, 1], [0, 1]]
    for path, labels in zip(paths, found, strict=True):
        right = labels.copy()
        if path is paths[1]:
            right[0, 0] = 0
        Image.fromarray(right.astype(np.uint8)).save(tmp_path / f"{path.stem}.labels.png")
    *pictures, together = check(engine, engine, paths, tmp_path)
    by_pytorch = [rung for rung in pictures[1].rungs if rung.reference == "PyTorch"]
    assert by_pytorch[0].measures["miou"] < 0.6
    assert all(picture.agrees for picture in pictures)
    assert together.agrees
    assert together.rungs[1].measures["miou"] > 0.99


def test_every_precision_has_its_bounds():
    precisions = set(typing.get_args(Precision))
    assert set(TASK_BOUNDS) == set(LOGIT_BOUNDS) == precisions


def test_pytorchs_own_label_maps_are_one_more_step(tmp_path, picture):
    engine = session(tmp_path, "image")
    segmentation = Segmenter(engine).predict(picture)
    segmentation.label_image().save(tmp_path / "photo.labels.png")
    right, _ = check(engine, engine, [picture], tmp_path)
    assert [rung.reference for rung in right.rungs] == ["ONNX file", "PyTorch"]
    assert right.agrees
    Image.fromarray((segmentation.labels + 1) % 4).save(tmp_path / "photo.labels.png")
    wrong, _ = check(engine, engine, [picture], tmp_path)
    assert [rung.agrees for rung in wrong.rungs] == [True, False]


def test_what_cannot_be_compared_is_refused(tmp_path, picture):
    engine = session(tmp_path, "image")
    with pytest.raises(GateError, match="the gate has no picture"):
        check(engine, engine, [])
    with pytest.raises(GateError, match="cannot be run here, and PyTorch's answers are known for the pictures of"):
        Gate(image_manifest(precision="bf16"), [picture], None)
    with pytest.raises(GateError, match=r"photo\.labels\.png does not exist: there is no reference for photo\.png"):
        check(engine, engine, [picture], tmp_path)
    (tmp_path / "photo.labels.png").write_bytes(b"no picture")
    with pytest.raises(GateError, match="is no picture"):
        check(engine, engine, [picture], tmp_path)
    Image.new("L", (5, 5)).save(tmp_path / "photo.labels.png")
    with pytest.raises(GateError, match=r"has shape \(5, 5\), the picture's labels have \(60, 90\)"):
        check(engine, engine, [picture], tmp_path)


def with_inner_value(path: Path, tensor: str, node: str, monkeypatch) -> Path:
    """The small model with a FreqFusion node whose result is no output, under these names."""
    monkeypatch.setenv("FREQFUSION_LIBRARY_DIR", str(path.parent))  # its node is computed by its body
    model = onnx.load(write_tensor_model(path, operator="LocalSimilarity"))
    model.graph.node[-1].output[0], model.graph.node[-1].name = tensor, node
    model.graph.node.append(onnx.helper.make_node("Identity", [tensor], ["logits"]))
    onnx.save(model, path)
    return path


def test_another_file_is_compared_inside_by_the_names_of_its_nodes(tmp_path, picture, monkeypatch):
    model = with_inner_value(tmp_path / "fp16.onnx", "similar_cast", "echo", monkeypatch)
    probed = tmp_path / "probed.onnx"
    write_with_outputs(model, ["similar_cast"], probed)
    for node, found in (("echo", ["LocalSimilarity echo"]), ("another", [])):
        against = with_inner_value(tmp_path / f"{node}.onnx", "similar", node, monkeypatch)
        gate = Gate(tensor_manifest(), [picture], against)
        gate.check_inside(OnnxRuntimeSession(probed), inner_values(model))
        assert [rung.name for rung in gate.results[0].rungs] == found
        assert all(rung.agrees for rung in gate.results[0].rungs)


def inside(name: str, error: float, bound: float = 2e-4) -> Rung:
    return Rung("PyTorch", "layer", name, {"max_over_std": error}, {"max_over_std": bound}, error <= bound)


def test_the_report_names_where_an_error_grows():
    agreeing = PictureGate("photo", (inside("a", 1e-6), inside("b", 1.2e-6), inside("c", 8e-6), inside("d", 9e-6)))
    assert any("grows most at layer c: 1.2e-06 before, 8.0e-06 there" in line for line in gate_lines([agreeing]))
    broken = PictureGate("photo", (inside("a", 1e-6), inside("b", 3e-4), inside("c", 9e-3)))
    assert any("the first value beyond its bound is layer b" in line for line in gate_lines([broken]))
    task = Rung("PyTorch", "task", "labels", {"miou": 0.5}, {"miou": 0.99}, False)
    outside = PictureGate("photo", (inside("a", 1e-6), inside("b", 2e-6), task))
    assert any("look at what is fused in this one" in line for line in gate_lines([outside]))


def test_an_engine_that_fails_is_deleted_and_another_one_stays(tmp_path):
    failed, other = tmp_path / "failed.plan", tmp_path / "other.plan"
    for plan in (failed, other):
        plan.write_bytes(plan.name.encode())
        plan.with_suffix(".json").write_text("{}")
    sha256 = sha256_of(failed)
    assert [delete_same(plan, sha256) for plan in (failed, other, tmp_path / "none.plan")] == [False, True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "other.plan"]
