# SPDX-License-Identifier: Apache-2.0
"""Data sets in Parquet files, as hubs share them, and what can be wrong with them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from freqfusion_runtime.errors import PictureError
from freqfusion_runtime.evaluation.datasets import CITYSCAPES_CLASSES, open_dataset
from freqfusion_runtime.evaluation.errors import DatasetError
from PIL import Image

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(array):
    file = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path, values, names=("image", "annotation"), rows_together=2):
    """A table of one grey picture for each value, whose label map is that value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": png(np.full((3, 4, 3), 10 * value)), "path": f"{value}.jpg"} for value in values]
    maps = [{"bytes": png(np.full((3, 4), value)), "path": None} for value in values]
    pq.write_table(pa.table({names[0]: pictures, "n": values, names[1]: maps}), path, row_group_size=rows_together)
    return path


def test_rows_of_the_validation_part_are_read_in_order(tmp_path):
    write(tmp_path / "data" / "validation-00001-of-00002.parquet", [4, 5])
    write(tmp_path / "data" / "validation-00000-of-00002.parquet", [1, 2, 3])
    write(tmp_path / "data" / "train-00000-of-00001.parquet", [9])
    dataset = open_dataset("ade20k", tmp_path)
    assert len(dataset) == 5
    samples = [dataset[index] for index in range(5)]
    assert [int(sample.picture[0, 0, 0]) for sample in samples] == [10, 20, 30, 40, 50]
    assert [np.unique(sample.truth).tolist() for sample in samples] == [[0], [1], [2], [3], [4]]  # 1 is the first class
    assert samples[3].name == dataset.name(3) == f"{tmp_path / 'data' / 'validation-00001-of-00002.parquet'}[0]"
    assert [len(open_dataset("ade20k", tmp_path, split)) for split in ("validation", "train")] == [5, 1]
    with pytest.raises(DatasetError, match=r"holds no table of 'test', only data/train-00000.*--split"):
        open_dataset("ade20k", tmp_path, "test")


def test_tables_in_hidden_folders_belong_to_programs(tmp_path):
    write(tmp_path / ".venv" / "validation.parquet", [8])
    with pytest.raises(DatasetError, match="images"):
        open_dataset("ade20k", tmp_path)
    write(tmp_path / "val" / "0.parquet", [1])
    assert len(open_dataset("ade20k", tmp_path)) == 1
    assert len(open_dataset("ade20k", tmp_path / ".venv")) == 1  # named, it is meant


def test_one_table_of_any_name_is_scored_as_a_whole(tmp_path):
    table = write(tmp_path / "mine.parquet", [7, 26], ("pixel_values", "label"))
    dataset = open_dataset("cityscapes", table)
    assert (dataset.classes, dataset.reading) == (CITYSCAPES_CLASSES, "label-ids")
    assert [int(dataset[index].truth[0, 0]) for index in range(2)] == [0, 13]
    assert open_dataset("cityscapes", table, labels="train-ids").reading == "train-ids"


def test_a_column_that_is_called_as_usual_and_holds_no_files_is_passed_over(tmp_path):
    table = pq.read_table(write(tmp_path / "a.parquet", [3], ("image", "mask")))
    pq.write_table(table.append_column("label", pa.array([12])), tmp_path / "a.parquet")
    assert int(open_dataset("ade20k", tmp_path)[0].truth[0, 0]) == 2


def test_a_folder_may_name_the_part_and_columns_may_be_named(tmp_path):
    write(tmp_path / "val" / "0.parquet", [1], ("photo", "truth"))
    write(tmp_path / "train" / "0.parquet", [2], ("photo", "truth"))
    with pytest.raises(DatasetError, match=r"no column image or pixel_values .*only photo .*--columns PICTURES,LABELS"):
        open_dataset("ade20k", tmp_path)
    assert int(open_dataset("ade20k", tmp_path, columns=("photo", "truth"))[0].truth[0, 0]) == 0
    with pytest.raises(DatasetError, match=r"no column 'n' with files in it, only photo \(struct"):
        open_dataset("ade20k", tmp_path, columns=("photo", "n"))


def test_tables_with_columns_of_different_names_are_no_data_set(tmp_path):
    write(tmp_path / "a.parquet", [1])
    write(tmp_path / "b.parquet", [1], ("image", "mask"))
    with pytest.raises(DatasetError, match=r"image, annotation in a\.parquet and image, mask in b\.parquet"):
        open_dataset("ade20k", tmp_path)


def test_what_a_model_is_trained_on_is_scored_only_where_asked(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", [1])
    with pytest.raises(DatasetError, match=r"holds train and none of validation and val; .* --split train"):
        open_dataset("ade20k", tmp_path)
    assert len(open_dataset("ade20k", tmp_path, "train")) == 1


def test_a_broken_row_is_named(tmp_path):
    pictures = [png(np.zeros((3, 4, 3))), b"no picture", png(np.zeros((3, 4, 3))), None]
    maps = [png(np.zeros((3, 5))), png(np.zeros((3, 4))), b"no map", png(np.zeros((3, 4)))]
    pq.write_table(pa.table({"image": pictures, "mask": maps}), tmp_path / "a.parquet")
    dataset = open_dataset("ade20k", tmp_path)
    with pytest.raises(DatasetError, match=r"a\.parquet#mask\[0\] is 5 x 3, its picture .*#image\[0\] 4 x 3"):
        dataset[0]
    with pytest.raises(PictureError, match=r"a\.parquet#image\[1\] is not a picture"):
        dataset[1]
    with pytest.raises(DatasetError, match=r"a\.parquet#mask\[2\] cannot be read as a PNG of labels"):
        dataset[2]
    with pytest.raises(PictureError, match=r"a\.parquet#image\[3\] holds no bytes but NoneType"):
        dataset[3]


def test_what_is_no_table_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no table")
    with pytest.raises(DatasetError, match=r"a\.parquet is not a Parquet file"):
        open_dataset("ade20k", tmp_path)
    table = pq.read_table(write(tmp_path / "a.parquet", [1]))
    pq.write_table(table.slice(0, 0), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="1 tables have no rows"):
        open_dataset("ade20k", tmp_path)
    with pytest.raises(DatasetError, match=r"images does not exist; the data set's root"):
        open_dataset("ade20k", tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="--columns is about Parquet files"):
        open_dataset("ade20k", tmp_path, columns=("a", "b"))
