# SPDX-License-Identifier: Apache-2.0
"""`freqfusion evaluate` on semantic segmentation, as users type it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from freqfusion_export.evaluation import segmenters
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.evaluation.datasets import CITYSCAPES_CLASSES
from freqfusion_runtime.files import sha256_of
from PIL import Image
from safetensors.torch import save_file
from small_models import image_manifest, write_image_model


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
    # Three pictures of ours are not the paper's data set.
    assert one["paper_miou_percent"] is None
    assert "43.5" not in printed
    assert facts["counts"] == {
        "scored": {"pictures": 3, "pixels": 3 * 15 * 256},
        "ignored": {"pixels": 3 * 256},
        "dropped": {"pictures": 0},
    }
    assert facts["ignored_values"] == {"0": 3 * 256}
    assert "scored: 3 pictures, 11520 pixels; ignored: 768 pixels; dropped: 0 pictures" in printed
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


SKY, TREE = (60, 60, 250), (20, 250, 20)  # what the small model takes for its classes 0 and 1
CAR = (250, 20, 20)  # and 3


def write_pair(root, name, colours, values):
    for folder, array in (("images", np.array(colours, np.uint8)), ("annotations", np.array(values, np.uint8))):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / folder / f"{name}.png")


def evaluate(capsys, *arguments):
    """Runs the command; gives its exit status, what its JSON says, and what it printed."""
    status = main(["evaluate", *map(str, arguments), "--dataset", "ade20k", "--json", "-"])
    printed = capsys.readouterr()
    return status, json.loads(printed.out, parse_constant=pytest.fail) if status < 2 else None, printed.err


def test_masks_of_0_and_1_are_hinted_at_and_scored_where_0_is_a_class(tmp_path, capsys):
    model = write_image_model(tmp_path / "m.onnx")
    write_pair(tmp_path, "a", [[SKY, SKY, SKY, TREE]] * 2, [[0, 0, 0, 1]] * 2)
    status, facts, printed = evaluate(capsys, model, "--data", tmp_path)
    assert status == 0
    assert facts["models"][0]["pixel_accuracy"]["value"] == 0
    assert any("labels look shifted" in warning and "--labels from-0" in warning for warning in facts["warnings"])
    assert "WARNING: labels look shifted" in printed
    assert any("75.0% of the pixels are ignored, those of value 0" in warning for warning in facts["warnings"])
    status, facts, _ = evaluate(capsys, model, "--data", tmp_path, "--labels", "from-0")
    assert status == 0
    assert facts["models"][0]["miou"]["value"] == 1
    assert facts["counts"]["scored"]["pixels"] == 8
    assert facts["warnings"] == ["2 of 4 classes have no pixel in the truth: road, car"]


def test_a_picture_to_which_a_model_has_no_answer_is_dropped_and_stops_no_other(checkpoint, tmp_path, capsys):
    model = write_image_model(
        tmp_path / "m.onnx", image_manifest(classes=("sky", "tree", "road"), num_classes=3, palette=())
    )
    write_pair(tmp_path, "a", [[SKY, TREE]] * 2, [[1, 2]] * 2)
    write_pair(tmp_path, "b", [[SKY, CAR]] * 2, [[1, 3]] * 2)
    status, facts, printed = evaluate(capsys, model, "--data", tmp_path)
    assert (status, facts["pictures"], facts["models"][0]["miou"]["value"]) == (1, 1, 1)
    assert "b.png" in facts["dropped"][0]["name"]
    assert re.search(r"label.* 3", facts["dropped"][0]["reason"])
    assert "b.png" in printed
    content = torch.load(checkpoint)
    content["state_dict"]["decode_head.conv_seg.bias"] = torch.full((150,), torch.nan)
    torch.save(content, tmp_path / "broken.pth")
    status, _, printed = evaluate(capsys, tmp_path / "broken.pth", "--data", tmp_path)
    assert status == 2
    assert re.search(
        r"none of 2 pictures .*: (\d+) of \1 logits of .*broken\.pth are infinite or not a number", printed
    )


def test_of_ade20ks_own_tree_only_the_validation_part_is_scored(tmp_path, capsys):
    model = write_image_model(tmp_path / "m.onnx")
    write_pair(tmp_path, "validation/a", [[SKY, TREE]] * 2, [[1, 2]] * 2)
    write_pair(tmp_path, "training/b", [[SKY, TREE]] * 2, [[2, 1]] * 2)
    status, facts, _ = evaluate(capsys, model, "--data", tmp_path)
    assert (status, facts["pictures"], facts["models"][0]["miou"]["value"]) == (0, 1, 1)
    status, facts, _ = evaluate(capsys, model, "--data", tmp_path, "--split", "training")
    assert (status, facts["pictures"], facts["models"][0]["miou"]["value"]) == (0, 1, 0)


def test_pictures_that_cannot_be_scored_are_counted_and_stop_no_other(tmp_path, capsys):
    model = write_image_model(tmp_path / "m.onnx")
    for name in "abcd":
        write_pair(tmp_path, name, [[SKY, SKY, SKY, TREE]] * 2, [[1, 1, 1, 1]] * 2)
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    Image.new("L", (3, 3)).save(tmp_path / "annotations" / "b.png")
    Image.fromarray(np.full((2, 4), 9, np.uint8)).save(tmp_path / "annotations" / "c.png")
    status, facts, printed = evaluate(capsys, model, "--data", tmp_path)
    assert status == 1
    assert facts["counts"] == {
        "scored": {"pictures": 1, "pixels": 8},
        "ignored": {"pixels": 0},
        "dropped": {"pictures": 3},
    }
    assert facts["models"][0]["pixel_accuracy"]["value"] == 6 / 8
    for name, reason in (
        ("a", "is not a picture"),
        ("b", "is 3 x 3, its picture"),
        ("c", "the truth holds labels [8]"),
    ):
        (entry,) = [entry for entry in facts["dropped"] if f"{name}.png" in entry["name"]]
        assert reason in entry["reason"]
        assert reason in printed
    (tmp_path / "images" / "d.png").unlink()
    (tmp_path / "annotations" / "d.png").unlink()
    status, _, printed = evaluate(capsys, model, "--data", tmp_path)
    assert status == 2
    assert "nothing to score: none of 3 pictures could be; the first: " in printed


def test_models_that_name_a_class_otherwise_are_told(tmp_path, capsys):
    one = write_image_model(tmp_path / "one.onnx")
    other = write_image_model(tmp_path / "other.onnx", image_manifest(classes=("sky", "bush", "road", "car")))
    write_pair(tmp_path, "a", [[SKY, TREE]] * 2, [[1, 2]] * 2)
    _, facts, _ = evaluate(capsys, one, other, "--data", tmp_path)
    assert facts["classes"] == ["sky", "tree", "road", "car"]
    expected = f"1 of 4 have another name in {other}: class 1 is 'bush' there and 'tree' here"
    assert [warning for warning in facts["warnings"] if expected in warning]


def test_classes_without_names_are_said_to_be_matched_by_number(tmp_path, capsys):
    named = write_image_model(tmp_path / "named.onnx")
    unnamed = write_image_model(tmp_path / "unnamed.onnx", image_manifest(classes=()))
    write_pair(tmp_path, "a", [[SKY, TREE]] * 2, [[1, 2]] * 2)
    _, facts, _ = evaluate(capsys, named, unnamed, "--data", tmp_path)
    expected = f"classes were matched by number: those of {unnamed} have no names"
    assert [warning for warning in facts["warnings"] if "by number" in warning] == [expected]


def test_a_checkpoint_of_any_suffix_or_in_shards_is_scored(checkpoint, segnext_t, labelled, tmp_path, capsys):
    (tmp_path / "shards").mkdir()
    state = segnext_t.state_dict()
    save_file(state, tmp_path / "shards" / "a.safetensors", {"image_size": "[64, 64]"})
    index = {"weight_map": dict.fromkeys(state, "a.safetensors")}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    other = tmp_path / "weights.bin"
    other.write_bytes(checkpoint.read_bytes())
    _, facts, _ = evaluate(capsys, other, tmp_path / "shards", "--data", labelled, "--limit", "1")
    assert [model["name"] for model in facts["models"]] == ["segnext_t", "segnext_t"]
    assert facts["models"][0]["sha256"] == sha256_of(other)
    assert facts["models"][0]["pixel_accuracy"]["value"] == pytest.approx(14 / 15)


class Answers:
    """A model of Cityscapes' classes that answers with the red of each pixel."""

    model = "segnext_t"
    backend = "by hand"
    num_classes = 19
    classes = CITYSCAPES_CLASSES
    weights = "checkpoint"
    notes = ("a note",)
    palette = ()

    def label(self, picture):
        return picture[:, :, 0]


@pytest.fixture
def cityscapes(tmp_path, monkeypatch):
    """Writes a data set of one picture, given what is found and what the label file holds; scores it."""
    monkeypatch.setattr(segmenters, "open_labeller", lambda *_, **__: Answers())
    model = write_image_model(tmp_path / "m.onnx")

    def score(capsys, found, values, *options, ending="labelIds"):
        place = tmp_path / "set" / "{}" / "val" / "ulm" / "ulm_0_{}"
        for folder, name, array in (
            ("leftImg8bit", "leftImg8bit.png", np.repeat(np.array([found], np.uint8)[:, :, None], 3, axis=2)),
            ("gtFine", f"gtFine_{ending}.png", np.array([values], np.uint8)),
        ):
            path = Path(str(place).format(folder, name))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        arguments = ["evaluate", str(model), "--dataset", "cityscapes", "--data", str(tmp_path / "set")]
        assert main([*arguments, *options, "--json", "-"]) == 0
        return json.loads(capsys.readouterr().out)

    return score


def test_cityscapes_scores_are_those_worked_by_hand(cityscapes, capsys):
    # Of road (7) two of three are found, one as sidewalk (8), which is there once and found; 0 and 4 do not count.
    facts = cityscapes(capsys, [0, 0, 1, 1, 18, 3], [7, 7, 7, 8, 0, 4])
    (entry,) = facts["models"]
    assert entry["class_iou"]["road"] == pytest.approx(2 / 3)
    assert entry["class_iou"]["sidewalk"] == pytest.approx(1 / 2)
    assert entry["miou"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert entry["pixel_accuracy"]["value"] == pytest.approx(3 / 4)
    assert entry["paper_miou_percent"] is None
    assert entry["notes"] == ["a note"]
    assert facts["counts"] == {
        "scored": {"pictures": 1, "pixels": 4},
        "ignored": {"pixels": 2},
        "dropped": {"pictures": 0},
    }
    assert facts["warnings"] == [
        "17 of 19 classes have no pixel in the truth: building, wall, fence, pole, traffic light and 12 more"
    ]


def test_train_ids_under_the_name_of_label_ids_are_hinted_at(cityscapes, capsys):
    values = [0, 1, 2, 5, 13, 255]
    facts = cityscapes(capsys, [0, 1, 2, 5, 13, 0], values)
    shifted, ignored, _ = facts["warnings"]
    assert "right on 100.0% of the pixels if they are read with --labels train-ids, and on 0.0% as they are" in shifted
    assert "83.3% of the pixels are ignored" in ignored
    facts = cityscapes(capsys, [0, 1, 2, 5, 13, 0], values, "--labels", "train-ids")
    assert facts["models"][0]["miou"]["value"] == 1
    assert (facts["counts"]["scored"]["pixels"], facts["counts"]["ignored"]["pixels"]) == (5, 1)


def test_pictures_in_a_table_are_scored(tmp_path, capsys):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    model = write_image_model(tmp_path / "m.onnx")
    write_pair(tmp_path, "a", [[SKY, SKY, TREE, TREE]] * 2, [[1, 2, 2, 0]] * 2)
    write_pair(tmp_path, "b", [[SKY, SKY, TREE, TREE]] * 2, [[1, 1, 2, 2]] * 2)
    columns = {
        name: [(tmp_path / folder / f"{sample}.png").read_bytes() for sample in "ab"]
        for name, folder in (("image", "images"), ("annotation", "annotations"))
    }
    columns["image"].append(b"no picture")
    columns["annotation"].append(b"no map")
    (tmp_path / "hub").mkdir()
    parquet.write_table(pa.table(columns), tmp_path / "hub" / "validation-00000-of-00001.parquet")
    status, facts, _ = evaluate(capsys, model, "--data", tmp_path / "hub")
    assert status == 1
    assert facts["counts"]["scored"] == {"pictures": 2, "pixels": 14}
    (dropped,) = facts["dropped"]
    assert dropped["name"].endswith("validation-00000-of-00001.parquet[2]")
    # Sky is right on 6 and found on 2 more; tree right on 6 of 8.
    assert facts["models"][0]["class_iou"]["sky"] == pytest.approx(6 / 8)
    assert facts["models"][0]["class_iou"]["tree"] == pytest.approx(6 / 8)


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


def test_columns_are_two(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "a.onnx", "--dataset", "ade20k", "--columns", "image"])
    assert "--columns: must be two names with a comma between them, got 'image'" in capsys.readouterr().err


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
def test_what_cannot_be_done_is_said(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err
