# SPDX-License-Identifier: Apache-2.0
"""Files are read by what they hold, whatever their suffix; folders of shards; what is no checkpoint is named."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from freqfusion import read_checkpoint
from freqfusion.checkpoint_files.formats import files_of
from freqfusion.errors import CheckpointError
from safetensors.torch import save_file

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2)}
SUFFIXES = (".pth", ".pt", ".pkl", ".bin", ".safetensors", ".ckpt", "")


def write(path, kind):
    if kind == "safetensors":
        save_file(WEIGHTS, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model": {name: tensor.numpy() for name, tensor in WEIGHTS.items()}}))
    elif kind == "deflated":
        torch.save(WEIGHTS, path)
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in records.items():
                archive.writestr(name, data)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "zip")


def assert_read(path):
    found = read_checkpoint(path).state_dict
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors", "deflated"])
def test_a_suffix_says_nothing(tmp_path, kind, suffix):
    write(tmp_path / f"weights{suffix}", kind)
    assert_read(tmp_path / f"weights{suffix}")


def test_tensors_can_be_written_and_the_file_stays_as_it_is(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(WEIGHTS, path)
    before = path.read_bytes()
    read_checkpoint(path).state_dict["b"].zero_()
    assert path.read_bytes() == before
    assert_read(path)


@pytest.mark.parametrize("value", ["[not json", "{neither", '{"a": 1}', "[" * 100_000, "text"])
def test_metadata_of_safetensors_may_be_any_text(tmp_path, value):
    save_file(WEIGHTS, tmp_path / "w.safetensors", {"note": value})
    assert_read(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*run `git lfs pull`"),
        (b"<!DOCTYPE html>", "a web page or XML; the download went wrong"),
        (b"\x1f\x8b\x08\x00", "it is gzip; unpack it first"),
        (b"\x89HDF\r\n", "it is HDF5"),
        (b"\x93NUMPY\x01\x00", "a single numpy array"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"cannot be read as a checkpoint: {message}|{message}"):
        read_checkpoint(tmp_path / "x.pth")


def test_other_archives_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    with pytest.raises(CheckpointError, match=r"a zip archive, but not one of torch.save.*holds a.npy"):
        read_checkpoint(tmp_path / "x.npz")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "x.npz", "storages")
    with pytest.raises(CheckpointError, match=r"a tar archive, as PyTorch before 0.1.10 wrote it"):
        read_checkpoint(tmp_path / "x.tar")


def test_a_record_that_grows_without_bounds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10_000_000))
    with pytest.raises(CheckpointError, match=r"data.pkl would grow to 10000000 bytes, more than 100 times the file's"):
        read_checkpoint(tmp_path / "bomb.pth")


def test_records_that_grow_together_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(100):
            archive.writestr(f"x/data/{number}" if number else "x/data.pkl", bytes(2_000_000))
    with pytest.raises(CheckpointError, match=r"100 records, x/data\.pkl the largest, would grow to 200000000"):
        read_checkpoint(tmp_path / "bomb.pth")


def sharded(folder, kind="safetensors"):
    folder.mkdir()
    suffix = "safetensors" if kind == "safetensors" else "bin"
    stem = "model" if kind == "safetensors" else "pytorch_model"
    weight_map = {}
    for i, (name, tensor) in enumerate(WEIGHTS.items()):
        shard = f"{stem}-{i + 1:05}-of-00002.{suffix}"
        save_file({name: tensor}, folder / shard) if suffix == "safetensors" else torch.save(
            {name: tensor}, folder / shard
        )
        weight_map[name] = shard
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 56}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_folders_of_shards_are_read_by_their_index(tmp_path, kind):
    index = sharded(tmp_path / "model", kind)
    assert_read(tmp_path / "model")
    assert_read(index)
    assert len(files_of(tmp_path / "model")) == 3


def test_a_folder_with_one_checkpoint_is_that_checkpoint(tmp_path):
    torch.save(WEIGHTS, tmp_path / "weights.pth")
    assert_read(tmp_path)
    shutil.copy(tmp_path / "weights.pth", tmp_path / "more.pth")
    with pytest.raises(
        CheckpointError, match=r"a folder with 2 checkpoints and without an index.*more.pth, weights.pth"
    ):
        read_checkpoint(tmp_path)


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    index = sharded(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="a folder with 0 checkpoints and without an index"):
        read_checkpoint(tmp_path / "empty")
    (tmp_path / "empty" / ".metadata").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"of torch.distributed.checkpoint. Turn it into one file first"):
        read_checkpoint(tmp_path / "empty")
    weight_map = json.loads(index.read_text())["weight_map"]
    for changed, message in (
        ({**weight_map, "c": weight_map["b"]}, "names 1 entries that its shard .* does not have, such as 'c'"),
        ({**weight_map, "b": "gone.safetensors"}, "names the shard gone.safetensors, which is not beside it"),
        ({"b": "../../etc/passwd"}, "names the shard '../../etc/passwd' for b; only files beside it"),
    ):
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(index)
    index.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is no index of shards: a JSON object with a weight_map is expected"):
        read_checkpoint(index)
