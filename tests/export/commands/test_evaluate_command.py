# SPDX-License-Identifier: Apache-2.0
"""`freqfusion evaluate` on semantic segmentation, as users type it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from freqfusion_runtime.commands.cli import main
from PIL import Image
from small_models import write_image_model


@pytest.fixture(scope="module")
def checkpoint(segnext_t, tmp_path_factory):
    """The goldens' weights, asking for pictures of 64 pixels' side."""
    path = tmp_path_factory.mktemp("checkpoint") / "segnext.pth"
    torch.save({"meta": {"image_size": [64, 64]}, "state_dict": segnext_t.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def labelled(checkpoint, tmp_path_factory):
    """Three pictures whose truth is what the model says, but for a corner."""
    from freqfusion_export.evaluation.segmenters import TorchLabeller

    root = tmp_path_factory.mktemp("ade20k")
    labeller = TorchLabeller(checkpoint, None, "cpu", 1)
    rng = np.random.default_rng(0)
    for folder in ("images", "annotations"):
        (root / folder).mkdir()
    for name in "abc":
        picture = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        truth = labeller.label(picture).astype(np.uint8) + 1  # label 0 is ignored
        truth[:16, :16] = 0
        truth[16:32, :16] = 1 + truth[16:32, :16] % 150
        Image.fromarray(picture).save(root / "images" / f"{name}.png")
        Image.fromarray(truth).save(root / "annotations" / f"{name}.png")
    return root


def test_scores_side_by_side(checkpoint, exported, labelled, tmp_path, capsys):
    arguments = ["evaluate", str(checkpoint), str(exported["image"]), "--dataset", "ade20k", "--data", str(labelled)]
    arguments += ["--output", str(tmp_path / "pictures"), "--json", str(tmp_path / "scores.json"), "--threads", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    facts = json.loads((tmp_path / "scores.json").read_text())
    one, other = facts["models"]
    # 3 of the 15 blocks of 16 x 16 that count are wrong by construction: one of each picture.
    assert one["pixel_accuracy"]["value"] == pytest.approx(14 / 15)
    assert one["miou"]["low_95"] <= one["miou"]["value"] <= one["miou"]["high_95"]
    assert one["paper_miou_percent"] == 43.5
    assert "43.5" in printed
    assert "PyTorch" in one["backend"]
    assert "by kernel" in other["backend"]
    # The other file stretches to 512 x 512, so it differs; that is shown.
    assert other["miou_minus_first"]["value"] < 0
    names = {file.rpartition("/")[2] for file in facts["files"]}
    assert {"confusion-1-segnext.png", "confusion-2-image.png", "difference-1.png"} <= names
    for file in facts["files"]:
        assert min(Image.open(file).size) >= 64


def test_exit_status_one_if_a_model_falls_too_far_behind(checkpoint, exported, labelled, capsys):
    arguments = ["evaluate", str(checkpoint), str(exported["image"]), "--dataset", "ade20k", "--data", str(labelled)]
    assert main([*arguments, "--limit", "1", "--max-drop", "0.5"]) == 1
    assert "MORE THAN 0.5 BELOW THE FIRST" in capsys.readouterr().out


def test_a_checkpoint_with_another_class_count_is_refused(checkpoint, capsys):
    pytest.importorskip("freqfusion_runtime.evaluation.emoji_scenes")
    from freqfusion_runtime.evaluation.emoji_scenes import EmojiFontError, EmojiScenes

    try:
        EmojiScenes("validation")
    except EmojiFontError:
        pytest.skip("needs the Debian package fonts-noto-color-emoji")
    assert main(["evaluate", str(checkpoint), "--dataset", "emoji-scenes"]) == 2
    assert "segnext.pth has 150 classes, emoji-scenes has 9" in capsys.readouterr().err


def test_labels_outside_the_classes_are_refused(checkpoint, labelled, tmp_path, capsys):
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    Image.open(labelled / "images" / "a.png").save(tmp_path / "images" / "a.png")
    Image.fromarray(np.full((64, 64), 200, np.uint8)).save(tmp_path / "annotations" / "a.png")
    assert main(["evaluate", str(checkpoint), "--dataset", "ade20k", "--data", str(tmp_path)]) == 2
    assert "the truth holds labels [199], outside the 150 classes" in capsys.readouterr().err


@pytest.mark.parametrize("gate", [[], ["--max-drop", "0.1"]])
def test_masks_that_are_all_ignored_are_nothing_to_score(tmp_path, capsys, gate):
    model = write_image_model(tmp_path / "m.onnx")
    for folder, picture in (("images", np.full((6, 8, 3), 90, np.uint8)), ("annotations", np.zeros((6, 8), np.uint8))):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "a.png")
    arguments = [str(model), str(model), "--dataset", "ade20k", "--data", str(tmp_path), *gate]
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "scores.json")]) == 2
    printed = capsys.readouterr()
    assert "nothing to score" in printed.err
    assert "NONE TOO FAR BELOW" not in printed.out
    assert not (tmp_path / "scores.json").exists()


def test_what_no_picture_has_is_null_and_a_dash(tmp_path, capsys):
    model = write_image_model(tmp_path / "m.onnx")
    # All of it is sky for the small model, and is sky: there is no boundary anywhere.
    for folder, picture in (
        ("images", np.full((6, 8, 3), (60, 60, 250), np.uint8)),
        ("annotations", np.ones((6, 8), np.uint8)),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "a.png")
    arguments = ["evaluate", str(model), "--dataset", "ade20k", "--data", str(tmp_path)]
    assert main([*arguments, "--json", str(tmp_path / "scores.json")]) == 0
    assert "nan" not in capsys.readouterr().out
    facts = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    (entry,) = facts["models"]
    assert entry["miou"]["value"] == entry["pixel_accuracy"]["value"] == 1
    assert entry["boundary_f"] == {"value": None, "low_95": None, "high_95": None}
    assert list(entry["class_iou"].values()) == [1, None, None, None]


@pytest.mark.parametrize("points", ["nan", "inf", "-1"])
def test_a_gate_that_cannot_fail_is_refused(points, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "a.onnx", "b.onnx", "--dataset", "ade20k", "--max-drop", points])
    assert "--max-drop: must be finite and not negative, got" in capsys.readouterr().err


def test_a_model_is_not_its_own_opponent(capsys):
    assert main(["evaluate", "a.onnx", "--dataset", "ade20k", "--max-drop", "0.5"]) == 2
    assert "--max-drop 0.5 compares models with the first, and only a.onnx is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.onnx", "--dataset", "ade20k", "--data", "."], "does not exist"),
        (["no.onnx", "--dataset", "ade20k"], "name it with --data"),
        (["no.onnx", "--dataset", "coco"], "knows no data set 'coco'; choose one of emoji-scenes, ade20k, cityscapes"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, message, capsys):
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err
