# SPDX-License-Identifier: Apache-2.0
"""`freqfusion evaluate` on models that find objects, as users type it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from coco_sets import CATEGORY_IDS, write_coco_set
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.results.coco_format import panoptic_ids
from PIL import Image
from small_detectors import TASKS, Objects, write_detector
from small_models import write_tensor_model

ONE_DOG = Objects(((0.1, 0.2, 0.6, 0.9),), (0.9,), (1,))
MODEL_OF = {"detection": TASKS[0], "instance": TASKS[1], "panoptic": TASKS[2]}


@pytest.fixture(scope="module")
def coco_set(tmp_path_factory):
    """A data set whose first picture has one dog where the small detector says it is."""
    made = write_coco_set(tmp_path_factory.mktemp("set") / "coco")

    def one_dog(content):
        first = content["annotations"][0]
        first.update(category_id=7, bbox=[20, 32, 100, 112], area=11200, iscrowd=0)
        first["segmentation"] = [[20, 32, 120, 32, 120, 144, 20, 144]]
        content["annotations"][:] = [first]

    made.edit(made.instances, one_dog)
    return made


def run(capsys, *arguments):
    status = main(["evaluate", *map(str, arguments)])
    return status, capsys.readouterr()


@pytest.mark.parametrize("task", MODEL_OF)
def test_scores_are_printed_and_written_without_the_paper_s_on_other_data(coco_set, tmp_path, capsys, task):
    model = write_detector(tmp_path / "net.onnx", MODEL_OF[task], weights="checkpoint")
    data = ["--dataset", "coco", "--data", coco_set.folder, "--json", tmp_path / "scores.json"]
    status, printed = run(capsys, model, "--task", task, *data, "--output", tmp_path / "out")
    assert status == 0
    assert "published" not in printed.out
    facts = json.loads((tmp_path / "scores.json").read_text())
    (entry,) = facts["models"]
    assert entry["published_percent"] == {}
    counted = {"detection": {"boxes": 1}, "instance": {"boxes": 1, "masks": 1}}.get(task)
    assert facts["counts"]["scored"]["pictures"] == 4
    assert facts["counts"]["dropped"] == {"pictures": 0}
    if counted is not None:
        assert facts["counts"]["scored"] == {"pictures": 4, **counted}
        assert facts["counts"]["ignored"] == {"crowds": 0}
        assert facts["warnings"] == ["2 of 3 classes have no object in the truth: cat, dragon"]
    if task != "panoptic":
        # One dog, found exactly, in the first of four pictures; the small model sees it in all, so three are wrong
        # and, having its score, come first or last in any order: precision at full recall is at least 1/4.
        assert 0.25 <= entry["scores"]["box AP"] <= 1
        assert entry["per_class"]["box AP %"]["cat"] is None
        results = json.loads((tmp_path / "out" / "1-net.results.json").read_text())
        assert len(results) == 8
        assert ("segmentation" in results[0]) == (task == "instance")
    else:
        assert 0 < entry["scores"]["PQ"] < 1
        results = json.loads((tmp_path / "out" / "1-net.panoptic.json").read_text())["annotations"]
        assert [(e["image_id"], e["file_name"]) for e in results] == [(100 + 7 * i, f"{i:06}.png") for i in range(4)]
        for result in results:
            ids = panoptic_ids(np.asarray(Image.open(tmp_path / "out" / "1-net.panoptic" / result["file_name"])))
            assert set(np.unique(ids)) - {0} == {segment["id"] for segment in result["segments_info"]}
            assert {segment["category_id"] for segment in result["segments_info"]} <= set(CATEGORY_IDS.values())
            assert Image.open(tmp_path / "out" / "1-net.overlays" / result["file_name"]).width >= 200


def test_one_picture_one_object_scores_one(coco_set, tmp_path, capsys):
    model = write_detector(
        tmp_path / "net.onnx", "instance_segmentation", objects=Objects(((0.1, 0.2, 0.6, 0.9),), (0.9,), (1,))
    )
    data = ["--dataset", "coco", "--annotations", coco_set.instances, "--pictures", coco_set.pictures]
    status, printed = run(capsys, model, "--task", "instance", *data, "--limit", 1, "--json", "-")
    assert status == 0
    scores = json.loads(printed.out)["models"][0]["scores"]
    assert scores["box AP"] == pytest.approx(1)
    assert scores["mask AP"] == pytest.approx(1)
    assert json.loads(printed.out)["models"][0]["published_percent"] == {}  # its weights are random


def test_a_picture_that_cannot_be_read_stops_no_other(coco_set, tmp_path, capsys):
    made = write_coco_set(tmp_path / "coco")
    (made.pictures / "000002.png").write_bytes(b"no picture")
    for task in ("detection", "panoptic"):
        model = write_detector(tmp_path / "net.onnx", MODEL_OF[task])
        data = ["--dataset", "coco", "--data", made.folder, "--json", tmp_path / "scores.json"]
        status, printed = run(capsys, model, "--task", task, *data)
        assert status == 1
        assert "dropped picture 000002.png: " in printed.out
        facts = json.loads((tmp_path / "scores.json").read_text())
        assert facts["counts"]["scored"]["pictures"] == facts["pictures"] == 3
        assert facts["counts"]["dropped"] == {"pictures": 1}
        (tmp_path / "scores.json").unlink()
    for path in made.pictures.iterdir():
        path.write_bytes(b"no picture")
    status, printed = run(capsys, model, "--task", "panoptic", *data)
    assert status == 2
    assert (
        "nothing to score: no object or segment counts towards PQ. 4 were dropped, the first: 000000.png" in printed.err
    )


def test_a_model_that_falls_behind_the_first_fails(coco_set, tmp_path, capsys):
    good = write_detector(tmp_path / "good.onnx", objects=ONE_DOG)
    bad = write_detector(tmp_path / "bad.onnx", objects=replace(ONE_DOG, labels=(0,)))
    data = ["--task", "detection", "--dataset", "coco", "--data", coco_set.folder, "--limit", 1, "--max-drop", 0.5]
    status, printed = run(capsys, good, bad, *data)
    assert status == 1
    assert f"MORE THAN 0.5 BELOW THE FIRST: {bad}" in printed.out
    status, printed = run(capsys, good, good, *data)
    assert status == 0
    assert "NONE TOO FAR BELOW" in printed.out


@pytest.mark.parametrize("gate", [[], ["--max-drop", 0.1]])
@pytest.mark.parametrize("annotated", ["nothing", "crowds"])
def test_annotations_without_an_object_are_nothing_to_score(coco_set, tmp_path, capsys, annotated, gate):
    content = json.loads(coco_set.instances.read_text())
    content["annotations"] = [{**content["annotations"][0], "iscrowd": 1}] if annotated == "crowds" else []
    (tmp_path / "truth.json").write_text(json.dumps(content))
    model = write_detector(tmp_path / "net.onnx")
    data = ["--dataset", "coco", "--pictures", coco_set.pictures, "--annotations", tmp_path / "truth.json"]
    status, printed = run(capsys, model, model, "--task", "detection", *data, *gate)
    assert status == 2
    assert "nothing to score" in printed.err
    assert "NONE TOO FAR BELOW" not in printed.out


def test_what_cannot_be_scored_is_one_line_and_status_2(coco_set, tmp_path, capsys):
    detector = write_detector(tmp_path / "net.onnx")
    semantic = write_tensor_model(tmp_path / "semantic.onnx")
    (tmp_path / "empty").mkdir()
    data = ["--dataset", "coco", "--data", coco_set.folder]
    elsewhere = ["--dataset", "coco", "--annotations", coco_set.instances, "--pictures", tmp_path / "empty"]

    def altered(name, change):
        """The same data set with other annotations."""
        content = json.loads(coco_set.instances.read_text())
        change(content["annotations"][0], content)
        (tmp_path / name).write_text(json.dumps(content))
        return ["--task", "instance", *data, "--annotations", tmp_path / name]

    unknown_id = altered("id.json", lambda first, _: first.update(category_id=99))
    unknown_name = altered("name.json", lambda _, content: content["categories"][0].update(name="gryphon"))
    code = {"size": [160, 200], "counts": [1, 2, 3]}
    broken_code = altered("code.json", lambda first, _: first.update(segmentation=code))
    instance = write_detector(tmp_path / "masks.onnx", "instance_segmentation")
    for arguments, message in [
        ([detector, "--task", "panoptic", *data], "is made for detection and cannot be scored with --task panoptic"),
        ([detector, "--task", "instance", *data], "is made for detection and cannot be scored with --task instance"),
        ([semantic, "--task", "detection", *data], "labels pixels and finds no objects"),
        ([tmp_path / "gone.onnx", "--task", "detection", *data], "gone.onnx does not exist"),
        ([detector, "--task", "detection", "--dataset", "voc"], "--task detection knows no data set 'voc'"),
        ([detector, "--task", "detection", "--dataset", "coco"], "--dataset coco needs --data DIR"),
        ([detector, "--task", "detection", *data, "--split", "test"], "instances_test.json cannot be read"),
        ([detector, "--task", "detection", *elsewhere], "lacks 4 of the 4 pictures"),
        ([instance, *unknown_id], "annotation 1: it has the category 99, which the file does not"),
        ([instance, *unknown_name], "1 of 3 categories are unknown to the model: gryphon"),
        ([instance, *broken_code], "the run-length code is broken: its runs cover 6 pixels of 160 x 200"),
    ]:
        status, printed = run(capsys, *arguments)
        assert status == 2
        assert message in printed.err
        assert printed.err.count("\n") == 1
