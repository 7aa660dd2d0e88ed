# SPDX-License-Identifier: Apache-2.0
"""Detector, instance and panoptic segmenters on small networks whose objects the test names."""

import json

import freqfusion_runtime
import numpy as np
import pytest
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.errors import InputError, ModelFileError, NetworkOutputError
from freqfusion_runtime.model_files.classes import coco
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.predictors.segmenter import load_segmenter
from freqfusion_runtime.results.coco_format import category_ids
from freqfusion_runtime.results.run_lengths import read_code
from freqfusion_runtime.sessions import onnxruntime_session
from PIL import Image
from pycocotools import mask as coco_api
from small_detectors import SLOTS, TASKS, Objects, manifest, write_detector
from small_models import write_tensor_model

# At the corners of a box even a certain mask is sampled below 0.5, since it is zero on two sides.
CORNERS = 4
SQUARE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
WIDE = np.random.default_rng(1).integers(0, 256, (90, 150, 3), np.uint8)


def predictor(tmp_path, task, interface="tensor", objects=None, **changes):
    return freqfusion_runtime.load(write_detector(tmp_path / "net.onnx", task, interface, objects, **changes))


@pytest.mark.parametrize("interface", ["tensor", "image"])
def test_boxes_are_in_pixels_of_the_picture(tmp_path, interface):
    found = predictor(tmp_path, "detection", interface).predict(WIDE)
    # The small network's boxes are shares of the resized picture without its padding: 154 x 256, padded to 192 x 256.
    np.testing.assert_allclose(found.boxes, [[15, 18, 90, 81], [75, 0, 150, 45]], rtol=1e-6)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.labels.tolist() == [1, 0]
    assert [found.classes[label] for label in found.labels] == ["dog", "cat"]
    assert list(found.timings_ms) == ["decode", "preprocess", "network", "postprocess"]
    assert len(found) == 2


@pytest.mark.parametrize("interface", ["tensor", "image"])
def test_masks_have_the_picture_s_size(tmp_path, interface):
    logits = np.full((2, 28, 28), -20.0, np.float32)
    logits[0, :14] = 20  # the upper half of the dog
    found = predictor(tmp_path, "instance_segmentation", interface, Objects(masks=logits)).predict(WIDE)
    dog, cat = found.dense_masks()
    # The border between 14 and 14 of 28 values over rows 18 to 81 is at 49.5, a row's centre: that row is inside.
    expected = np.zeros((90, 150), bool)
    expected[18:50, 15:90] = True
    expected[18, [15, 89]] = expected[49, [15, 89]] = False
    np.testing.assert_array_equal(dog, expected)
    assert not cat.any()


@pytest.mark.parametrize("interface", ["tensor", "image"])
def test_instances_lie_over_stuff(tmp_path, interface):
    found = predictor(tmp_path, "panoptic_segmentation", interface).predict(SQUARE)
    assert found.ids.shape == (200, 200)
    assert np.unique(found.ids[40:180, 21:119]) == 1001
    assert np.unique(found.ids[1:99, 120:]) == 2000
    # The picture becomes 160 x 160 of 192 x 192; the horizon, in the middle of 192, is at 96 / 160 of the picture.
    assert np.unique(found.ids[:120, :20]) == 3
    assert np.unique(found.ids[180:]) == 4
    assert [(s.label, s.is_thing) for s in found.segments] == [(1, True), (0, True), (3, False), (4, False)]
    assert sum(segment.area for segment in found.segments) == found.ids.size
    assert found.summary() == "1 dog, 1 cat, sky, grass"


@pytest.mark.parametrize("task", TASKS)
def test_nothing_found_is_an_answer(tmp_path, task):
    found = predictor(tmp_path, task, objects=Objects((), (), ())).predict(WIDE)
    if task == "panoptic_segmentation":
        assert all(not segment.is_thing for segment in found.segments)
    else:
        assert (len(found), found.boxes.shape, found.summary()) == (0, (0, 4), "nothing found")
        assert found.coco_results() == []
    found.save(tmp_path, "nothing")
    assert Image.open(tmp_path / "nothing.overlay.png").width >= 480


def test_all_slots_can_be_used(tmp_path):
    objects = Objects([(0, 0, 1, 1)] * SLOTS, np.linspace(0.9, 0.1, SLOTS), [2] * SLOTS)
    found = predictor(tmp_path, "instance_segmentation", objects=objects).predict(WIDE)
    assert len(found) == len(found.masks) == SLOTS
    assert found.summary() == "100 dragon"


@pytest.mark.parametrize("task", TASKS[:2])
def test_score_and_class_choose_objects(tmp_path, task):
    network = predictor(tmp_path, task)
    assert network.predict(WIDE, score_threshold=0.9).labels.tolist() == []  # strict: the dog has 0.9
    assert network.predict(WIDE, score_threshold=0.8).labels.tolist() == [1]
    only_cats = network.predict(WIDE, classes=["cat"])
    assert only_cats.labels.tolist() == [0]
    if task == "instance_segmentation":
        assert only_cats.masks[0].area == 75 * 45
        assert network.predict(WIDE).only(np.array([False, True])).masks[0].area == 75 * 45
    with pytest.raises(InputError, match=r"knows no class 'cow'\. Choose from: cat, dog, dragon"):
        network.predict(WIDE, classes=["cat", "cow"])


def test_classes_choose_segments_and_the_rest_is_void(tmp_path):
    network = predictor(tmp_path, "panoptic_segmentation")
    whole, part = network.predict(SQUARE), network.predict(SQUARE, classes=["dog", "sky"])
    assert [segment.label for segment in part.segments] == [1, 3]
    np.testing.assert_array_equal(part.ids, np.where(np.isin(whole.ids, [1001, 3]), whole.ids, part.void))
    no_cat = network.predict(SQUARE, score_threshold=0.8)
    assert np.unique(no_cat.ids[:100, 120:]) == 3  # what was the cat's is sky


def test_coco_results_are_read_by_the_coco_api(tmp_path):
    found = predictor(tmp_path, "instance_segmentation").predict(WIDE)
    dog, cat = found.coco_results(image_id=7)
    assert dog["image_id"] == cat["image_id"] == 7
    assert (dog["category_id"], cat["category_id"]) == (2, 1)
    np.testing.assert_allclose(dog["bbox"], [15, 18, 75, 63], rtol=1e-6)
    for entry, mask in zip((dog, cat), found.dense_masks(), strict=True):
        np.testing.assert_array_equal(coco_api.decode(entry["segmentation"]).astype(bool), mask)
    json.dumps([dog, cat])


def test_coco_s_own_classes_have_coco_s_ids():
    assert category_ids(coco.CLASSES[:80])[-1] == 90
    assert category_ids(("person", "my own")) == (1, 2)


def test_the_panoptic_files_hold_the_map(tmp_path):
    found = predictor(tmp_path, "panoptic_segmentation").predict(SQUARE, classes=["dog", "sky"])
    files = found.save(tmp_path / "out", "photo")
    assert set(files) == {"panoptic", "segments", "overlay"}
    levels = np.asarray(Image.open(files["panoptic"])).astype(int)
    ids = levels[:, :, 0] + 256 * levels[:, :, 1] + 65536 * levels[:, :, 2]
    np.testing.assert_array_equal(ids, np.where(found.ids == found.void, 0, found.ids))
    (entry,) = json.loads(files["segments"].read_text())["annotations"]
    assert entry["file_name"] == "photo.panoptic.png"
    dog, sky = entry["segments_info"]
    assert dog == {"id": 1001, "category_id": 2, "area": 100 * 140 - CORNERS, "bbox": [20, 40, 100, 140], "iscrowd": 0}
    assert sky["category_id"] == 4


@pytest.fixture
def graph_without_sides(monkeypatch):
    """As an engine opens it that does not tell the sides of its outputs: only the answer shows them."""
    monkeypatch.setattr(onnxruntime_session, "check_graph", lambda *_: None)


def test_suppression_that_did_not_settle_is_named(tmp_path):
    network = predictor(tmp_path, "detection", objects=Objects(answers={"num": np.array([-1])}))
    with pytest.raises(NetworkOutputError, match=r"in one chain than .* has rounds for\. Use a file with the standard"):
        network.predict(np.zeros((20, 20, 3), np.uint8))


@pytest.mark.parametrize(
    ("output", "value", "message"),
    [
        ("num", np.array([101]), "num must be from 0 to 100, got 101"),
        ("num", np.array([2, 2]), r"num must have shape \(1,\), got \(2,\)"),
        ("boxes", np.zeros((1, 5, 4), np.float32), r"boxes must have shape \(1, 100, 4\), got \(1, 5, 4\)"),
        ("boxes", np.full((1, 100, 4), np.nan, np.float32), "boxes holds values that are infinite or not a number"),
        ("labels", np.full((1, 100), 3), "labels must be from 0 to 2, got 3 to 3"),
        ("labels", np.full((1, 100), -1), "labels must be from 0 to 2, got -1 to -1"),
        ("scores", np.array([[0.1, 0.2] + [0] * 98], np.float32), r"scores must fall, got 0\.100, 0\.200, "),
        ("masks", np.zeros((1, 100, 28, 14), np.float32), "masks must have shape"),
        ("masks", np.full((1, 100, 28, 28), np.inf, np.float32), "masks holds values"),
    ],
)
def test_a_malformed_answer_is_named(tmp_path, graph_without_sides, output, value, message):
    task = "instance_segmentation" if output == "masks" else "detection"
    network = predictor(tmp_path, task, objects=Objects(answers={output: value}))
    with pytest.raises(NetworkOutputError, match=message + r".*Write the model again with `freqfusion export`\."):
        network.predict(WIDE)


def test_semantic_maps_of_another_number_of_classes_are_named(tmp_path, graph_without_sides):
    network = predictor(tmp_path, "panoptic_segmentation", num_classes=6, classes=())
    with pytest.raises(NetworkOutputError, match=r"semantic must have shape \(4, h, w\) for a picture, got \(3, "):
        network.predict(WIDE)


def test_a_model_without_its_outputs_is_refused(tmp_path):
    record = manifest("instance_segmentation")
    path = write_detector(tmp_path / "net.onnx", "instance_segmentation", outputs=record.outputs[:4])
    with pytest.raises(ModelFileError, match="a model for instance_segmentation lacks masks"):
        freqfusion_runtime.load(path)


def test_each_class_takes_models_of_its_task_only(tmp_path):
    detector, semantic = write_detector(tmp_path / "a.onnx"), write_tensor_model(tmp_path / "b.onnx")
    with pytest.raises(ModelFileError, match="is made for detection, not for panoptic_segmentation"):
        freqfusion_runtime.PanopticSegmenter(open_session(detector))
    with pytest.raises(ModelFileError, match="is made for semantic_segmentation, not for detection"):
        freqfusion_runtime.Detector(open_session(semantic))
    with pytest.raises(ModelFileError, match="is made for detection, not for semantic segmentation"):
        load_segmenter(detector)
    assert isinstance(freqfusion_runtime.load(semantic), freqfusion_runtime.Segmenter)


@pytest.mark.parametrize(
    ("task", "files"),
    [
        ("detection", {"detections"}),
        ("instance_segmentation", {"detections"}),
        ("panoptic_segmentation", {"panoptic", "segments"}),
    ],
)
def test_the_run_command_writes_results_and_overlays(tmp_path, capsys, task, files):
    model = write_detector(tmp_path / "net.onnx", task)
    Image.fromarray(SQUARE).save(tmp_path / "photo.png")
    arguments = ["run", str(model), str(tmp_path / "photo.png"), "--output", str(tmp_path / "out"), "--json", "-"]
    assert main([*arguments, "--classes", "dog"]) == 0
    printed = capsys.readouterr()
    assert "1 dog" in printed.err
    facts = json.loads(printed.out)
    (entry,) = facts["pictures"]
    assert {key.removesuffix("_file") for key in entry if key.endswith("_file")} == {*files, "overlay"}
    assert Image.open(entry["overlay_file"]).width >= 480
    found = entry["segments"] if task == "panoptic_segmentation" else entry["objects"]
    assert [each["name"] for each in found] == ["dog"]
    assert facts["score_threshold"] == 0.3
    if task == "instance_segmentation":
        (written,) = json.loads((tmp_path / "out" / "photo.detections.json").read_text())
        assert read_code(written["segmentation"]).sum() == found[0]["pixels"] == 100 * 140 - CORNERS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "cow"], "knows no class 'cow'"),
        (["--score", "1.5"], "must be from 0 to 1, got 1.5"),
        (["--classes", ","], "must name at least one"),
    ],
)
def test_run_names_what_cannot_be_chosen(tmp_path, capsys, arguments, message):
    model = write_detector(tmp_path / "net.onnx")
    Image.fromarray(WIDE).save(tmp_path / "photo.png")
    try:
        status = main(["run", str(model), str(tmp_path / "photo.png"), "--output", str(tmp_path / "out"), *arguments])
    except SystemExit as e:
        status = e.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_run_on_a_semantic_model_refuses_a_score(tmp_path, capsys):
    model = write_tensor_model(tmp_path / "net.onnx")
    Image.fromarray(WIDE).save(tmp_path / "photo.png")
    arguments = ["run", str(model), str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--score", "0.5"]) == 2
    assert "labels every pixel and finds no objects" in capsys.readouterr().err
