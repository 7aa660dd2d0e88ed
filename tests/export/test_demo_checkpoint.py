# SPDX-License-Identifier: Apache-2.0
"""The trained checkpoint that ships: its layout, and that it is as good as its model card says."""

from __future__ import annotations

import json

import freqfusion
import pytest
import torch
from freqfusion_export import export
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.evaluation.emoji_scenes import CLASSES, PALETTE, EmojiFontError, EmojiScenes
from freqfusion_runtime.files import sha256_of
from places import ROOT
from safetensors import safe_open

RESULTS = ROOT / "benchmarks" / "results" / "emoji_scenes.jsonl"
SCENES = 100


@pytest.fixture(scope="module")
def exported_demo(demo, traced_demo, tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.onnx"
    model, name, checkpoint = demo
    source = {"checkpoint": checkpoint, "checkpoint_path": freqfusion.demo_checkpoint()}
    export(model, path, name=name, traced=traced_demo, **source)
    return path


def test_is_recognised_by_its_keys_and_says_what_it_is(demo):
    model, name, checkpoint = demo
    assert name == "segnext_t"
    assert checkpoint.classes == CLASSES
    assert checkpoint.palette == PALETTE
    assert checkpoint.image_size == (256, 256)
    assert checkpoint.weights == "trained"
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_is_small_and_half_precision():
    path = freqfusion.demo_checkpoint()
    assert path.stat().st_size <= 10e6
    with safe_open(path, "pt") as file:
        dtypes = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118  (not a dict)
    assert dtypes == {torch.float16, torch.int64}  # counters of the batch norms stay whole


def test_has_a_model_card():
    card = freqfusion.demo_checkpoint().with_suffix(".md").read_text(encoding="utf-8")
    for heading in ("Data", "Licences", "Schedule", "Figures", "Not for"):
        assert f"\n## {heading}\n" in card


def test_manifest_keeps_the_scenes_size(exported_demo):
    manifest = json.loads(exported_demo.with_suffix(".json").read_text())
    assert manifest["preprocessing"]["long_side"] == manifest["preprocessing"]["short_side"] == 256
    assert manifest["weights"] == "checkpoint"
    assert manifest["classes"] == list(CLASSES)


@pytest.mark.long
def test_scores_are_those_on_record(exported_demo, tmp_path):
    try:
        EmojiScenes("validation")
    except EmojiFontError:
        pytest.skip("needs the Debian package fonts-noto-color-emoji")
    path = freqfusion.demo_checkpoint()
    arguments = ["evaluate", str(path), str(exported_demo), "--dataset", "emoji-scenes", "--limit", str(SCENES)]
    assert main([*arguments, "--max-drop", "0.05", "--json", str(tmp_path / "scores.json")]) == 0
    by_pytorch, by_onnxruntime = json.loads((tmp_path / "scores.json").read_text())["models"]

    lines = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
    (recorded,) = (line for line in lines if line["pictures"] == SCENES and line["sha256"] == sha256_of(path))
    for scores in (by_pytorch, by_onnxruntime):
        assert recorded["miou"]["low_95"] <= scores["miou"]["value"] <= recorded["miou"]["high_95"]
    assert abs(by_pytorch["miou"]["value"] - by_onnxruntime["miou"]["value"]) <= 0.0005
