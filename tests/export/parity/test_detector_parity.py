# SPDX-License-Identifier: Apache-2.0
"""Parity of detectors: on a real exported file, and what counts as broken."""

import json
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from freqfusion_export.commands.detector_parity import compare_detectors
from freqfusion_export.errors import ExportError
from freqfusion_export.parity import detector_parity
from freqfusion_export.parity.detector_parity import task_parity
from freqfusion_export.parity.object_differences import ONLY_ACTUAL, ONLY_EXPECTED, draw_object_differences
from freqfusion_export.parity.segmenter_parity import read_manifest
from freqfusion_runtime.agreement.reference_data import ReferenceData
from freqfusion_runtime.building.gate import Gate
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.model_files.onnx_probe import inner_values, write_with_outputs
from freqfusion_runtime.predictors.loading import load
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
from PIL import Image
from small_detectors import Objects, write_detector

PHOTO = np.full((200, 200, 3), 90, np.uint8)


def found(folder, task, **objects):
    return load(write_detector(folder / "net.onnx", task, objects=Objects(**objects))).predict(PHOTO)


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "panoptic_segmentation"])
def test_equal_answers_agree(tmp_path, task):
    same = found(tmp_path, task)
    result = task_parity("photo", [], same, same)
    assert result.agrees
    assert result.objects.share == 1
    assert (result.objects.mean_mask_iou is None) == (task == "detection")
    assert result.panoptic == (1 if task == "panoptic_segmentation" else None)
    picture = np.asarray(draw_object_differences(same, same, result.objects))
    assert not (picture == ONLY_ACTUAL).all(axis=2).any()


def test_finding_nothing_on_both_sides_is_no_parity(tmp_path, monkeypatch):
    silent = found(tmp_path, "detection", boxes=(), scores=(), labels=())
    nothing = task_parity("photo", [], silent, silent)
    assert nothing.is_empty
    monkeypatch.setattr("freqfusion.load_model", lambda *_, **__: (None, None, SimpleNamespace(notes=())))
    monkeypatch.setattr(
        detector_parity, "DetectorParity", lambda *_: SimpleNamespace(objects_on=lambda picture: nothing)
    )
    arguments = {"model": tmp_path / "net.onnx", "checkpoint": tmp_path / "net.pth", "output": None, "json": None}
    args = Namespace(**arguments, kernels="auto", layers=False, threads=0, weights=None)
    pictures = {tmp_path / "a.png": "a", tmp_path / "b.png": "b"}
    with pytest.raises(ExportError, match="nor its checkpoint finds an object in any of 2 pictures, so no box"):
        compare_detectors(args, read_manifest(tmp_path / "net.onnx"), list(pictures), pictures, ())


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("detection", {"labels": (1, 2)}),
        ("detection", {"scores": (0.9, 0.699)}),
        ("detection", {"boxes": ((0.1, 0.2, 0.6, 0.9), (0.5, 0.0, 1.0, 0.48))}),
        ("instance_segmentation", {"masks": np.concatenate([np.full((1, 28, 28), 5.0), np.full((1, 28, 28), -5.0)])}),
        ("panoptic_segmentation", {"semantic": np.zeros((3, 4, 4)) + np.array([0, 1, 0])[:, None, None]}),
    ],
)
def test_another_label_score_box_mask_or_stuff_is_broken(tmp_path, task, change):
    expected, actual = found(tmp_path, task), found(tmp_path, task, **change)
    result = task_parity("photo", [], actual, expected)
    assert not result.agrees
    picture = np.asarray(draw_object_differences(actual, expected, result.objects))
    assert picture.shape == PHOTO.shape
    if "labels" in change or "boxes" in change:
        assert (picture == ONLY_EXPECTED).all(axis=2).any()
    if task != "detection":
        assert (picture == ONLY_ACTUAL).all(axis=2).any()


@pytest.mark.long
def test_parity_of_an_exported_file_with_its_checkpoint(detector_files, tmp_path, capsys):
    network = detector_files.network("panoptic_fpn_r50")
    torch.save({"meta": {"weights": "random"}, "state_dict": network.state_dict()}, tmp_path / "net.pth")
    y, x = np.mgrid[:90, :150]
    Image.fromarray(np.stack([2 * y, x + y, 255 - x], axis=2).astype(np.uint8)).save(tmp_path / "photo.png")
    model = detector_files.path("panoptic_fpn_r50", "tensor")
    arguments = ["parity", model, tmp_path / "photo.png", "--checkpoint", tmp_path / "net.pth"]
    arguments += ["--noise-floor", "--save-reference", tmp_path / "reference.npz"]
    status = main([*map(str, arguments), "--output", str(tmp_path), "--json", str(tmp_path / "parity.json")])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "PARITY HOLDS" in printed
    assert "panoptic quality between the maps" in printed
    (entry,) = json.loads((tmp_path / "parity.json").read_text())["pictures"]
    assert entry["object_agreement"] >= 0.99
    assert entry["panoptic_quality"] >= 0.99
    modules = [c["name"] for c in entry["comparisons"] if c["level"] == "module"]
    assert sorted(modules) == [f"neck.alignment.{level}.{part}" for level in range(4) for part in ("hr_out", "lr_out")]
    assert Image.open(tmp_path / "photo.differences.png").size == (150, 90)
    facts = json.loads((tmp_path / "parity.json").read_text())
    assert [entry["source"] for entry in facts["noise_floor"]] == ["TF32"]  # no random bases
    assert facts["noise_floor"][0]["measures"].keys() >= {"object_agreement", "panoptic_quality"}
    # What was recorded is enough for the gate of an engine; ONNX Runtime plays it.
    gate = Gate(read_manifest(model), [], model, ReferenceData(tmp_path / "reference.npz"))
    gate.check_engine(OnnxRuntimeSession(model))
    (tmp_path / "operators.onnx").write_bytes(gate.reference.operator_model)
    gate.check_operators(OnnxRuntimeSession(tmp_path / "operators.onnx"))
    values = inner_values(model)
    write_with_outputs(model, [value.tensor for value in values], tmp_path / "probed.onnx")
    gate.check_inside(OnnxRuntimeSession(tmp_path / "probed.onnx"), values)
    (result,) = gate.results
    assert result.agrees, [rung for rung in result.rungs if not rung.agrees]
    by_pytorch = {rung.level for rung in result.rungs if rung.reference == "PyTorch"}
    assert by_pytorch == {"operator", "layer", "module", "task"}
