# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import freqfusion_runtime
import numpy as np
import pytest
from freqfusion_runtime.commands.cli import main
from PIL import Image
from places import EXAMPLES
from small_detectors import write_detector
from small_models import write_image_model, write_tensor_model

PHOTO = EXAMPLES / "coffee.jpg"


@pytest.fixture
def model(tmp_path):
    return write_tensor_model(tmp_path / "net.onnx", operator="Echo")


def test_writes_labels_and_overlay_and_says_what_ran(tmp_path, model, capsys):
    out = tmp_path / "out"
    assert main(["run", str(model), str(PHOTO), "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "tensor interface, CPUExecutionProvider" in printed
    assert "weights are random" in printed
    assert "Echo: 1 x " in printed
    assert f"{PHOTO} -> {out / 'coffee.overlay.png'}" in printed
    assert all(f"{stage} " in printed for stage in ("decode", "preprocess", "network", "postprocess"))
    assert sorted(os.listdir(out)) == ["coffee.labels.png", "coffee.overlay.png"]
    expected = freqfusion_runtime.load(model).predict(PHOTO).labels
    np.testing.assert_array_equal(np.asarray(Image.open(out / "coffee.labels.png")), expected)


def test_a_folder_of_photos_on_the_image_interface_as_json(tmp_path, capsys):
    model = write_image_model(tmp_path / "net.onnx")
    assert main(["run", str(model), str(EXAMPLES), "--output", str(tmp_path / "out"), "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [Path(entry["picture"]).name for entry in facts["pictures"]] == ["coffee.jpg", "rocket.jpg"]
    assert facts["failures"] == []
    for entry in facts["pictures"]:
        assert sum(share["pixels"] for share in entry["classes"]) == entry["height"] * entry["width"]
        assert set(entry["timings_ms"]) == {"decode", "preprocess", "network", "postprocess"}
        assert Path(entry["overlay_file"]).is_file()
    assert len(facts["model_sha256"]) == 64
    assert facts["versions"]["python"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("street.png", "park.png"), [2, 1]),  # in order of name
        (("000000000139.png", "000000000785.png"), [139, 785]),
        (("139.png", "000139.png"), [2, 1]),  # numbers that do not tell them apart
        (("139.png", "park.png"), [1, 2]),
    ],
)
@pytest.mark.parametrize("task", ["instance_segmentation", "panoptic_segmentation"])
def test_results_of_several_pictures_are_told_apart_by_their_image_id(tmp_path, names, ids, task):
    (tmp_path / "photos").mkdir()
    for name in names:
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / name)
    detector = write_detector(tmp_path / "net.onnx", task)
    arguments = ["run", detector, tmp_path / "photos", "--output", tmp_path / "out", "--json", tmp_path / "run.json"]
    assert main([str(argument) for argument in arguments]) == 0
    told = {e["picture"]: e["image_id"] for e in json.loads((tmp_path / "run.json").read_text())["pictures"]}
    for name, expected in zip(names, ids, strict=True):
        assert told[str(tmp_path / "photos" / name)] == expected
        stem = name.removesuffix(".png")
        if task == "instance_segmentation":
            entries = json.loads((tmp_path / "out" / f"{stem}.detections.json").read_text())
        else:
            entries = json.loads((tmp_path / "out" / f"{stem}.panoptic.json").read_text())["annotations"]
        assert entries
        assert {entry["image_id"] for entry in entries} == {expected}


def test_a_bad_photo_does_not_stop_the_others(tmp_path, model, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(PHOTO.read_bytes()[:9000])
    (photos / "b.jpg").write_bytes(PHOTO.read_bytes())
    (photos / "c.png").write_text("no picture")
    arguments = ["run", str(model), str(photos), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert "a.jpg is damaged or truncated" in errors
    assert "c.png is not a picture" in errors
    assert errors.endswith("freqfusion run: 2 of 3 pictures could not be done\n")
    assert sorted(os.listdir(tmp_path / "out")) == ["b.labels.png", "b.overlay.png"]
    facts = json.loads((tmp_path / "r.json").read_text())
    assert [Path(failure["picture"]).name for failure in facts["failures"]] == ["a.jpg", "c.png"]


def test_results_half_written_by_a_crash_are_replaced(tmp_path, model):
    out = tmp_path / "out"
    out.mkdir()
    (out / "coffee.labels.png").write_bytes(b"\x89PNG half")
    (out / ".coffee.labels.0a1b2c3d.partial.png").write_bytes(b"\x89PNG half")
    assert main(["run", str(model), str(PHOTO), "--output", str(out), "--overlay-format", "jpg"]) == 0
    assert sorted(os.listdir(out)) == ["coffee.labels.png", "coffee.overlay.jpg"]
    assert Image.open(out / "coffee.labels.png").size == (600, 400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "gone.onnx"}, "gone.onnx does not exist. Name an ONNX file written by `freqfusion export`."),
        ({"photo": "gone.jpg"}, "gone.jpg does not exist. Name a picture file or a folder of them."),
        ({"photo": "empty"}, "no picture found in empty."),
        ({"output": "file"}, "file cannot be written: it is a file, not a folder."),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(tmp_path, model, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    named = {"model": str(model), "photo": str(PHOTO), "output": "out", **change}
    assert main(["run", named["model"], named["photo"], "--output", named["output"]]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"freqfusion run: {message}")
    assert errors.count("\n") == 1


def test_two_photos_never_overwrite_each_others_results(tmp_path, model, capsys):
    for name in ("one/a.png", "two/a.png", "one/a.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    out = tmp_path / "out"
    assert main(["run", str(model), str(tmp_path / "one"), "--output", str(out)]) == 0
    assert sorted(p.name for p in out.glob("*.labels.png")) == ["a_bmp.labels.png", "a_png.labels.png"]
    assert main(["run", str(model), str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(out)]) == 2
    assert "would be written under one name, a_png." in capsys.readouterr().err


def test_results_never_replace_pictures_nor_become_some(tmp_path, model, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "a.labels.png"):
        Image.new("RGB", (8, 8), "red").save(photos / name)
    own = (photos / "a.labels.png").read_bytes()
    assert main(["run", str(model), str(photos), "--output", str(photos / ".." / "photos")]) == 2
    assert "photos is the folder of the pictures, too: results would replace" in capsys.readouterr().err
    named = [str(photos / "a.png"), str(photos / "a.labels.png")]
    assert main(["run", str(model), *named, "--output", str(photos)]) == 2
    assert "a.labels.png is a picture, and the results of" in capsys.readouterr().err
    assert (photos / "a.labels.png").read_bytes() == own
    assert sorted(os.listdir(photos)) == ["a.labels.png", "a.png"]
    assert main(["run", str(model), named[0], "--output", str(tmp_path / "out")]) == 0


def test_what_is_left_out_and_what_is_black_is_told_on_lines_of_their_own(tmp_path, model, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.full((8, 8), 1023, np.uint16)).save(photos / "a.png")
    (photos / "b.heic").touch()
    assert main(["run", str(model), str(photos), "--output", str(tmp_path / "out")]) == 0
    left_out, black = capsys.readouterr().err.splitlines()
    assert left_out.startswith(f"freqfusion run: {photos}: left out for want of a reader: 1 picture, b.heic. Convert")
    assert black.startswith(
        f"freqfusion run: {photos / 'a.png'} has 16-bit values, of which OpenCV takes the highest 8"
    )


def test_names_that_differ_in_case_only_are_one(tmp_path, model, capsys):
    for name in ("A.png", "a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert main(["run", str(model), str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "would be written under one name, A_png." in capsys.readouterr().err


def test_runs_where_torch_and_onnx_cannot_be_imported(tmp_path, model):
    """The runtime must work on a machine that has neither; here their import is an error."""
    script = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnx_ir", "cv2", "freqfusion", "freqfusion_export"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from freqfusion_runtime.commands.cli import main
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["run", str(model), str(PHOTO), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path / "out")) == ["coffee.labels.png", "coffee.overlay.png"]
