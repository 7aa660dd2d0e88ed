# SPDX-License-Identifier: Apache-2.0
"""Folders laid out as ADE20K and Cityscapes are, and what can be wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
from freqfusion_runtime.evaluation.counts import IGNORED
from freqfusion_runtime.evaluation.datasets import (
    CITYSCAPES_CLASSES,
    ade20k_folder,
    cityscapes_folder,
    open_dataset,
)
from freqfusion_runtime.evaluation.errors import DatasetError
from PIL import Image


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(height=6, width=8):
    return np.zeros((height, width, 3), np.uint8)


@pytest.fixture
def ade20k(tmp_path):
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) * 3
    for name in ("b", "a"):
        write(tmp_path / "images" / "validation" / f"{name}.jpg", picture())
        write(tmp_path / "annotations" / "validation" / f"{name}.png", labels)
    return tmp_path


def test_ade20k_takes_one_off_and_ignores_zero(ade20k):
    dataset = ade20k_folder(ade20k)
    assert len(dataset) == 2
    assert [p.name for p, _ in dataset.pairs] == ["a.jpg", "b.jpg"]
    truth = dataset[0].truth
    assert truth[0, 0] == IGNORED
    np.testing.assert_array_equal(truth.ravel()[1:], np.arange(1, 48) * 3 - 1)


def test_of_ade20ks_own_tree_the_validation_part_is_scored(ade20k):
    write(ade20k / "images" / "training" / "c.jpg", picture())
    write(ade20k / "annotations" / "training" / "c.png", np.zeros((6, 8), np.uint8))
    names = {
        split: [p.name for p, _ in ade20k_folder(ade20k, split).pairs] for split in (None, "validation", "training")
    }
    assert names == {None: ["a.jpg", "b.jpg"], "validation": ["a.jpg", "b.jpg"], "training": ["c.jpg"]}
    with pytest.raises(
        DatasetError, match=r"images/test does not exist; .* must hold images/test and annotations/test"
    ):
        ade20k_folder(ade20k, "test")


def test_what_a_model_is_trained_on_is_scored_only_where_asked(ade20k):
    for folder in ("images", "annotations"):
        (ade20k / folder / "validation").rename(ade20k / folder / "training")
    with pytest.raises(DatasetError, match=r"holds training and none of validation and val; .* --split training"):
        ade20k_folder(ade20k)
    assert len(ade20k_folder(ade20k, "training")) == 2


def test_folders_of_other_names_are_all_scored(ade20k):
    for folder in ("images", "annotations"):
        (ade20k / folder / "validation").rename(ade20k / folder / "street")
    assert len(ade20k_folder(ade20k)) == 2


def test_255_is_ignored_in_every_reading(ade20k):
    write(ade20k / "annotations" / "validation" / "a.png", np.full((6, 8), 255, np.uint8))
    for labels in ("from-1", "from-0"):
        assert (ade20k_folder(ade20k, labels=labels)[0].truth == IGNORED).all()


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_masks_of_0_and_1_have_two_classes_where_one_says_so(ade20k, dtype):
    values = np.eye(6, 8, dtype=dtype)
    write(ade20k / "annotations" / "validation" / "a.png", values)
    np.testing.assert_array_equal(ade20k_folder(ade20k, labels="from-0")[0].truth, values)
    np.testing.assert_array_equal(ade20k_folder(ade20k)[0].truth, np.where(values, 0, IGNORED))
    np.testing.assert_array_equal(ade20k_folder(ade20k)[0].values, values)


def cityscapes(root, *endings, values=(0, 18, 255)):
    write(root / "leftImg8bit" / "val" / "ulm" / "ulm_000_019_leftImg8bit.png", picture(1, len(values)))
    for ending in endings:
        write(root / "gtFine" / "val" / "ulm" / f"ulm_000_019_gtFine_{ending}.png", np.array([values], np.uint8))


@pytest.mark.parametrize(
    ("endings", "labels", "reading", "truth"),
    [
        (["labelTrainIds"], None, "train-ids", [0, 18, 255]),
        (["labelIds"], None, "label-ids", [255, 255, 255]),
        (["labelIds", "labelTrainIds"], None, "label-ids", [255, 255, 255]),
        (["labelIds"], "train-ids", "train-ids", [0, 18, 255]),  # prepared for training under the other name
        (["labelTrainIds"], "label-ids", "label-ids", [255, 255, 255]),
    ],
)
def test_cityscapes_train_ids_are_read_as_such(tmp_path, endings, labels, reading, truth):
    cityscapes(tmp_path, *endings)
    dataset = cityscapes_folder(tmp_path, labels=labels)
    assert dataset.reading == reading
    np.testing.assert_array_equal(dataset[0].truth, [truth])


def test_cityscapes_without_labels_says_what_it_wants(tmp_path):
    cityscapes(tmp_path, "color")
    with pytest.raises(DatasetError, match=r"1 of 1 pictures have no label file; .*_gtFine_labelIds\.png"):
        cityscapes_folder(tmp_path)


def test_cityscapes_ids_become_train_ids(tmp_path):
    ids = np.array([[0, 7, 8, 11, 33, 29], [26, 255, 12, 13, 17, 34]], np.uint8)
    for split, value in (("val", ids), ("train", np.zeros_like(ids))):
        write(tmp_path / "leftImg8bit" / split / "ulm" / "ulm_000_019_leftImg8bit.png", picture(2, 6))
        write(tmp_path / "gtFine" / split / "ulm" / "ulm_000_019_gtFine_labelIds.png", value)
    dataset = cityscapes_folder(tmp_path)
    assert len(dataset) == 1  # of both splits only val
    expected = [[255, 0, 1, 2, 18, 255], [13, 255, 3, 4, 5, 255]]
    np.testing.assert_array_equal(dataset[0].truth, expected)
    assert dataset.classes == CITYSCAPES_CLASSES
    assert len(CITYSCAPES_CLASSES) == 19
    assert CITYSCAPES_CLASSES[13] == "car"


def test_pictures_without_suffix_are_scored_and_those_of_other_formats_told(ade20k):
    validation = ade20k / "images" / "validation"
    (validation / "a.jpg").rename(validation / "a")
    (validation / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (validation / "notes").write_text("no picture")
    with pytest.warns(UserWarning, match=r"left out for want of a reader: 1 picture, c\.heic"):
        dataset = ade20k_folder(ade20k)
    assert [(picture.name, labels.name) for picture, labels in dataset.pairs] == [("a", "a.png"), ("b.jpg", "b.png")]
    assert dataset[0].picture.shape == (6, 8, 3)


def test_labels_of_another_size_are_told(ade20k):
    write(ade20k / "annotations" / "validation" / "a.png", np.zeros((5, 8), np.uint8))
    with pytest.raises(DatasetError, match=r"a\.png is 8 x 5, its picture .*a\.jpg 8 x 6"):
        ade20k_folder(ade20k)[0]


def test_a_missing_label_file_is_told(ade20k):
    (ade20k / "annotations" / "validation" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 pictures have no label file; .*b\.jpg, which needs .*b\.png"):
        ade20k_folder(ade20k)


@pytest.mark.parametrize("missing", ["images", "annotations"])
def test_a_missing_folder_is_told(ade20k, missing):
    (ade20k / missing).rename(ade20k / "elsewhere")
    with pytest.raises(DatasetError, match=rf"{missing} does not exist; the data set's root, .* must hold images and"):
        ade20k_folder(ade20k)


def test_empty_folders_are_told(tmp_path):
    for name in ("images", "annotations"):
        (tmp_path / name).mkdir()
    with pytest.raises(DatasetError, match="images holds no pictures"):
        ade20k_folder(tmp_path)


def test_a_label_file_in_colours_is_told(ade20k):
    write(ade20k / "annotations" / "validation" / "a.png", picture())
    with pytest.raises(DatasetError, match=r"a\.png has mode RGB; a label file holds one byte a pixel"):
        ade20k_folder(ade20k)[0]


def test_a_damaged_label_file_is_told(ade20k):
    (ade20k / "annotations" / "validation" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"a\.png cannot be read as a PNG of labels"):
        ade20k_folder(ade20k)[0]


def test_a_reading_of_another_data_set_is_told(ade20k):
    with pytest.raises(DatasetError, match=r"--labels train-ids is no reading of ade20k\. Choose one of from-1"):
        open_dataset("ade20k", ade20k, labels="train-ids")


@pytest.mark.parametrize("settings", [{"split": "train"}, {"labels": "from-1"}, {"columns": ("a", "b")}])
def test_scenes_that_are_drawn_have_no_parts_and_no_files(settings):
    with pytest.raises(DatasetError, match=r"emoji-scenes is drawn, .* Leave --split, --labels and --columns out"):
        open_dataset("emoji-scenes", None, **settings)


def test_a_folder_data_set_without_a_folder_is_told():
    with pytest.raises(DatasetError, match="'ade20k' lies in a folder of yours; name it with --data"):
        open_dataset("ade20k", None)
