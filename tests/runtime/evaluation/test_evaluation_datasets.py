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


def test_a_folder_data_set_without_a_folder_is_told():
    with pytest.raises(DatasetError, match="'ade20k' lies in a folder of yours; name it with --data"):
        open_dataset("ade20k", None)
