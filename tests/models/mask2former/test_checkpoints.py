# SPDX-License-Identifier: Apache-2.0
"""Mask2Former checkpoints: every way they are written, any Swin, and what is said of those that do not fit."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from freqfusion import create_model, load_checkpoint, load_model, recognize_model
from freqfusion.errors import CheckpointError
from freqfusion.mask2former.checkpoint_arguments import CLASS_WEIGHT, arguments_of
from mask2former_reference import SMALL, fill, key_list

QUERIES = "sem_seg_head.predictor.query_feat.weight"
TABLE = "backbone.layers.{}.blocks.0.attn.relative_position_bias_table"


@pytest.fixture(scope="module")
def small():
    """A network of a Swin that is none of the official ones."""
    return fill(create_model("mask2former", **SMALL))


@pytest.fixture
def entries(small):
    return dict(small.state_dict())


def shaped(size: str) -> dict[str, torch.Tensor]:
    """An official state_dict without values."""
    return {key: torch.empty(shape, device="meta") for key, shape, _ in key_list(size)}


def assert_loaded(path, small, name="mask2former"):
    network, found, checkpoint = load_model(path)
    assert found == name
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[key]), key
    return checkpoint


@pytest.mark.parametrize("size", ["swin_b", "swin_l"])
def test_official_checkpoints_are_recognised(size):
    assert recognize_model(shaped(size)) == (f"mask2former_{size}", 150)


def test_a_swin_of_ones_own_is_recognised_and_read_from_its_entries(small, entries):
    assert recognize_model(entries) == ("mask2former", 7)
    assert arguments_of(entries) == SMALL


def test_a_detectron2_pickle_of_arrays_is_loaded(small, entries, tmp_path):
    path = tmp_path / "model_final.pkl"
    content = {"model": {key: tensor.numpy() for key, tensor in entries.items()}, "__author__": "somebody"}
    path.write_bytes(pickle.dumps(content))
    assert_loaded(path, small)


def test_a_training_checkpoint_is_loaded_and_what_is_for_training_left_out(small, entries, tmp_path):
    optimizer = torch.optim.AdamW(torch.nn.Linear(2, 2).parameters()).state_dict()
    model = {**entries, "criterion.empty_weight": torch.ones(8)}
    content = {"model": model, "optimizer": optimizer, "scheduler": {"last_epoch": 3}, "iteration": 159999}
    torch.save(content, tmp_path / "model_final.pth")
    checkpoint = assert_loaded(tmp_path / "model_final.pth", small)
    assert "left out 1 entry (criterion.empty_weight): only training uses them" in checkpoint.notes


def test_older_names_are_renamed(small, entries, tmp_path):
    decoder = "sem_seg_head.pixel_decoder."
    older = {
        key.replace("query_feat", "static_query").replace(decoder, "sem_seg_head."): t for key, t in entries.items()
    }
    torch.save({"model": older}, tmp_path / "older.pth")
    notes = assert_loaded(tmp_path / "older.pth", small).notes
    count = sum(key.startswith(decoder) for key in entries)
    assert "renamed 1 entries: static_query of older Mask2Former is query_feat here" in notes
    assert f"renamed {count} entries: sem_seg_head of older Mask2Former is sem_seg_head.pixel_decoder here" in notes


def test_other_counts_of_classes_and_queries_are_told_with_what_there_is(small, entries, tmp_path):
    torch.save(entries, tmp_path / "small.pth")
    other = create_model("mask2former", **{**SMALL, "num_classes": 8, "num_queries": 10})
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(other, tmp_path / "small.pth")
    message = str(refused.value)
    assert "Its entries are those of 'mask2former' with 7 classes and 12 queries" in message
    assert f"{CLASS_WEIGHT} is (8, 64), expected (9, 64)" in message
    assert f"{QUERIES} is (12, 64), expected (10, 64)" in message


def test_weights_of_another_swin_than_the_named_one_are_refused(tmp_path, entries):
    torch.save(entries, tmp_path / "small.pth")
    with pytest.raises(
        CheckpointError,
        match=r"small\.pth: these weights are of another Swin than that of mask2former_swin_b: embed_dim 32 in place "
        r"of 128, depths \(1, 1, 2, 1\) in place of \(2, 2, 18, 2\).* Name the model 'mask2former', which takes any",
    ):
        load_model(tmp_path / "small.pth", "mask2former_swin_b")


def test_a_swin_that_contradicts_itself_is_refused(entries):
    with pytest.raises(CheckpointError, match=r"stages of a Swin double in width, got \[32, 64, 128, 200\] channels"):
        arguments_of({**entries, "backbone.layers.3.blocks.0.norm1.weight": torch.ones(200)})
    with pytest.raises(CheckpointError, match=re.escape("has (2 * window - 1)**2 rows, got (48, 4)")):
        arguments_of({**entries, TABLE.format(2): torch.ones(48, 4)})
    with pytest.raises(CheckpointError, match=r"windows of one size, got \[4, 5\]"):
        arguments_of({**entries, TABLE.format(2): torch.ones(81, 4)})


def test_heads_that_do_not_divide_the_channels_are_told(entries, tmp_path):
    torch.save({**entries, TABLE.format(1): torch.ones(49, 3)}, tmp_path / "heads.pth")
    with pytest.raises(CheckpointError, match=r"heads of stage 1 must divide its 64 channels, got 3"):
        load_model(tmp_path / "heads.pth")


def test_a_block_that_is_missing_is_named(entries, tmp_path):
    torch.save({key: t for key, t in entries.items() if "layers.2.blocks.0.mlp" not in key}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"missing: backbone\.layers\.2\.blocks\.0\.mlp\.fc1\.weight \(512,"):
        load_model(tmp_path / "part.pth", "mask2former")


def test_a_truncated_pickle_is_told(entries, tmp_path):
    content = pickle.dumps({"model": {key: tensor.numpy() for key, tensor in entries.items()}})
    (tmp_path / "cut.pkl").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pkl \(\d+ bytes\) cannot be read as a checkpoint.*fetch it again"):
        load_model(tmp_path / "cut.pkl")


class _Hostile:
    def __reduce__(self):
        import os

        return os.system, ("touch nothing",)


def test_a_pickle_that_wants_code_run_is_refused(entries, tmp_path):
    (tmp_path / "hostile.pkl").write_bytes(pickle.dumps({"model": {"a": torch.ones(1).numpy()}, "x": _Hostile()}))
    with pytest.raises(CheckpointError, match=r"asks for (posix|nt)\.system, which is not plain data\. Nothing"):
        load_model(tmp_path / "hostile.pkl")


def test_the_twin_has_no_freqfusion():
    with torch.device("meta"):
        names = create_model("mask2former_swin_b_bilinear").state_dict()
    assert len(names) == 706 - 57
    assert not any("freqfusions" in name for name in names)
