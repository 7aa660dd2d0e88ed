# SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints: every kind, what they say of themselves, and everything that can be wrong with them."""

from __future__ import annotations

import collections
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from freqfusion import create_model, load_checkpoint, load_model, read_checkpoint
from freqfusion.errors import CheckpointError, UnknownModelError
from safetensors.torch import save_file

CONFIG = """
crop_size = (512, 512)
train_pipeline = [dict(type='Resize', img_scale=(2048, 512), ratio_range=(0.5, 2.0))]
test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(1024, 256), flip=False)]
danger = __import__('os').system('touch /tmp/executed')
"""


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return dict(create_model("segnext_t", num_classes=4).state_dict())


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_loaded(model, state):
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_mm_checkpoint_with_meta(state, tmp_path):
    meta = {"CLASSES": ("a", "b", "c", "d"), "PALETTE": [[0, 1, 2]] * 4, "config": CONFIG, "mmseg_version": "0.24.1"}
    path = tmp_path / "mm.pth"
    torch.save({"meta": meta, "state_dict": collections.OrderedDict(state), "optimizer": {"lr": 0.1}}, path)
    model, name, checkpoint = load_model(path)
    assert name == "segnext_t"
    assert_loaded(model, state)
    assert not model.training
    assert checkpoint.classes == ("a", "b", "c", "d")
    assert checkpoint.palette == ((0, 1, 2),) * 4
    assert checkpoint.image_size == (1024, 256)
    assert checkpoint.weights == "trained"


def test_mmengine_meta(state, tmp_path):
    path = tmp_path / "mmengine.pth"
    config = "test_pipeline = [{'type': 'Resize', 'scale': (2048, 1024)}]"
    meta = {"dataset_meta": {"classes": ["x", "y", "z", "w"], "palette": [[1, 2, 3]] * 4}, "cfg": config}
    torch.save({"meta": meta, "state_dict": state}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.classes == ("x", "y", "z", "w")
    assert checkpoint.image_size == (2048, 1024)


@pytest.mark.parametrize(("kind", "legacy"), [("plain", False), ("plain", True), ("model", False), ("parallel", False)])
def test_torch_checkpoints(state, tmp_path, kind, legacy):
    content = {
        "plain": state,
        "model": {"model": state, "epoch": 3},
        "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
    }[kind]
    path = tmp_path / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    model = create_model("segnext_t", num_classes=4)
    load_checkpoint(model, path)
    assert_loaded(model, state)


def test_detectron2_pickle(state, tmp_path):
    path = tmp_path / "model.pkl"
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody", "matching_heuristics": True}))
    assert_loaded(load_model(path)[0], state)


def test_a_checkpoint_names_its_model_and_size(tmp_path):
    """The bilinear twin is not official, so its keys alone are not recognised."""
    twin = create_model("segnext_t_bilinear", num_classes=5)
    path = tmp_path / "twin.safetensors"
    save_file(weights_of(twin), path, {"model": "segnext_t_bilinear", "image_size": "[192, 256]"})
    model, name, checkpoint = load_model(path)
    assert name == checkpoint.model == "segnext_t_bilinear"
    assert checkpoint.image_size == (256, 192)
    assert_loaded(model, weights_of(twin))
    save_file(weights_of(twin), path, {"model": "segnext_huge", "image_size": '["a", 2]'})
    with pytest.raises(UnknownModelError, match=r"twin\.safetensors: unknown model 'segnext_huge'"):
        load_model(path)
    assert read_checkpoint(path).image_size is None


def test_safetensors_in_half_precision(state, tmp_path):
    path = tmp_path / "weights.safetensors"
    halves = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    save_file(halves, path, metadata={"classes": '["a", "b", "c", "d"]'})
    model, _, checkpoint = load_model(path)
    assert checkpoint.classes == ("a", "b", "c", "d")
    assert model.backbone.norm1.weight.dtype == torch.float32
    assert_loaded(model, {name: t.float() if t.is_floating_point() else t for name, t in halves.items()})


def test_all_differences_are_named_and_the_model_is_left_alone(state, tmp_path):
    path = tmp_path / "other.pth"
    changed = dict(state)
    del changed["backbone.norm1.weight"]
    changed["backbone.extra"] = torch.zeros(3)
    changed["decode_head.squeeze.gn.weight"] = torch.zeros(7)
    torch.save({"state_dict": changed}, path)
    model = create_model("segnext_t", num_classes=4)
    before = weights_of(model)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(model, path)
    text = str(raised.value)
    assert "3 of 596 entries differ" in text
    assert "missing: backbone.norm1.weight (32,)" in text
    assert "unexpected: backbone.extra (3,)" in text
    assert "wrong shape: decode_head.squeeze.gn.weight is (7,), expected (256,)" in text
    assert_loaded(model, before)


def test_another_class_count_is_named(state, tmp_path):
    path = tmp_path / "four.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="Its entries are those of 'segnext_t' with 4 classes"):
        load_checkpoint(create_model("segnext_t"), path)


def test_long_lists_are_cut(state, tmp_path):
    torch.save({f"other.{name}": tensor for name, tensor in state.items()}, tmp_path / "renamed.pth")
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(create_model("segnext_t", num_classes=4), tmp_path / "renamed.pth")
    assert "missing: 586 more" in str(raised.value)
    assert "unexpected: 586 more" in str(raised.value)
    assert len(str(raised.value)) < 4000
    with pytest.raises(UnknownModelError, match=r"no known model, and most are in none of them \(e.g. 'other.backbone"):
        load_model(tmp_path / "renamed.pth")


def test_an_unknown_model_is_named_with_its_nearest(state, tmp_path):
    path = tmp_path / "unknown.pth"
    torch.save({name: tensor for name, tensor in state.items() if "freqfusions.1" not in name}, path)
    with pytest.raises(
        UnknownModelError, match=r"no known model; the nearest is 'segnext_t', \d+ of whose entries are missing"
    ):
        load_model(path)


class Runs:
    """A pickle that runs a command when it is read by the ordinary unpickler."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pt"])
def test_a_hostile_pickle_runs_nothing(state, tmp_path, suffix):
    marker = tmp_path / "executed"
    path = tmp_path / f"hostile{suffix}"
    content = {"state_dict": state, "meta": {"payload": Runs(marker)}}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {"w": np.zeros(3)}, "payload": Runs(marker)}))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"asks for (posix|nt).system, which is not plain data. Nothing was run"):
        read_checkpoint(path)
    assert not marker.exists()


def test_objects_of_training_frameworks_are_not_rebuilt(state, tmp_path, monkeypatch):
    package, module = types.ModuleType("mmengine"), types.ModuleType("mmengine.logging")
    built = []

    class HistoryBuffer:
        def __reduce__(self):
            return HistoryBuffer, (), {"values": [1.0]}

        def __setstate__(self, state):
            built.append(state)

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging", "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setitem(sys.modules, "mmengine", package)
    monkeypatch.setitem(sys.modules, "mmengine.logging", module)
    path = tmp_path / "trained.pth"
    torch.save({"state_dict": state, "message_hub": {"loss": HistoryBuffer()}}, path)
    assert len(read_checkpoint(path).state_dict) == 596
    assert not built


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_truncated_files(state, tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {name: tensor.numpy() for name, tensor in state.items()}}))
    elif suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"cannot be read as (a checkpoint|safetensors).*[Ff]etch it again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"<html>Not found</html>", "cannot be read as a checkpoint"),
        (b"PK\x03\x04garbage", "cannot be read as a checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, message):
    path = tmp_path / "page.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_files_without_weights(tmp_path):
    torch.save({"meta": {}, "state_dict": {}}, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, not a dictionary"):
        read_checkpoint(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        (np.array([[0, 1, 2]] * 4, np.uint8), ((0, 1, 2),) * 4),
        (torch.tensor([[0, 1, 2]] * 4), ((0, 1, 2),) * 4),
        ([np.array([0, 1, 2])] * 4, ((0, 1, 2),) * 4),
        ([[0.0, 0.5, 1.0]] * 4, ((0, 128, 255),) * 4),
        ([[0, 0, 0], [1, 1, 1]] * 2, ((0, 0, 0), (1, 1, 1)) * 2),
    ],
)
def test_palettes_of_every_kind(state, tmp_path, palette, expected):
    torch.save({"meta": {"PALETTE": palette}, "state_dict": state}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.palette == expected
    shares = "took the palette's levels from 0 to 1 as shares of 255"
    assert checkpoint.notes == ((shares,) if expected[0][1] == 128 else ())


@pytest.mark.parametrize(
    "names", [np.array(["a", "b", "c", "d"]), {0: "a", 1: "b", 2: "c", 3: "d"}, ["a", "b", "c", "d"]]
)
def test_class_names_of_every_kind(state, tmp_path, names):
    torch.save({"meta": {"CLASSES": names}, "state_dict": state}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").classes == ("a", "b", "c", "d")


@pytest.mark.parametrize("names", ["a,b", {"a", "b"}, [1, 2], {"a": 0}, 3])
def test_class_names_and_palettes_that_are_not_understood_are_told_and_not_replaced(state, tmp_path, names):
    torch.save({"meta": {"CLASSES": names, "PALETTE": [[1, 2]]}, "state_dict": state}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.classes == ()
    assert checkpoint.palette is None
    names_note, palette_note = checkpoint.notes
    assert names_note.startswith("did not understand the class names: a list of texts is expected")
    assert palette_note.startswith("did not understand the palette: three levels from 0 to 255")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "x" * 201], "each has at most 200 characters, and one has 201"),
        (["a"] * 65_537, "at most 65536 are read, and they are 65537"),
        (torch.zeros(1).expand(1 << 40), "a list of texts is expected"),
    ],
)
def test_names_beyond_their_bounds_are_told_and_left_out(state, tmp_path, names, reason):
    torch.save({"meta": {"CLASSES": names}, "state_dict": state}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.classes == ()
    assert checkpoint.notes == (f"did not understand the class names: {reason}",) or reason in checkpoint.notes[0]


def test_names_at_their_bounds_are_taken(state, tmp_path):
    torch.save({"meta": {"CLASSES": ["x" * 200] * 65_536}, "state_dict": state}, tmp_path / "x.pth")
    assert len(read_checkpoint(tmp_path / "x.pth").classes) == 65_536


@pytest.mark.parametrize(
    "palette",
    [[[10**400, 0, 0]], [[0, float("nan"), 0]], [[1.0, float("nan"), 2.0]], torch.zeros(1).expand(1 << 40, 3)],
)
def test_palettes_without_levels_are_told(state, tmp_path, palette):
    torch.save({"meta": {"PALETTE": palette}, "state_dict": state}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.palette is None
    assert checkpoint.notes[0].startswith("did not understand the palette")


def test_bases_that_mmcv_saved_are_taken(state, tmp_path):
    """mmcv saves buffers that PyTorch does not."""
    name = "decode_head.hamburger.ham.bases"
    own = create_model("segnext_t", num_classes=4).decode_head.hamburger.ham.bases
    torch.save({"state_dict": {**state, name: own}}, tmp_path / "x.pth")
    ham = load_model(tmp_path / "x.pth")[0].decode_head.hamburger.ham
    assert ham.bases_seed == 0
    torch.save({"state_dict": {**state, name: own / 2}}, tmp_path / "x.pth")
    ham = load_model(tmp_path / "x.pth")[0].decode_head.hamburger.ham
    assert torch.equal(ham.bases, own / 2)
    assert ham.bases_seed is None
    torch.save({"state_dict": {**state, name: own[:, :3]}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"wrong shape: decode_head.hamburger.ham.bases is \(256, 3\), expected"):
        load_model(tmp_path / "x.pth")


def test_entries_without_values_are_named_and_sparse_and_quantised_ones_loaded(state, tmp_path):
    model = create_model("segnext_t", num_classes=4)
    name = "decode_head.conv_seg.bias"
    torch.save({**state, name: torch.empty(4, device="meta")}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"1 of 596 entries differ(.|\n)*without values: {name}"):
        load_checkpoint(model, tmp_path / "x.pth")
    torch.save({**state, name: torch.tensor([0.0, 1, 0, 2]).to_sparse()}, tmp_path / "x.pth")
    load_checkpoint(model, tmp_path / "x.pth")
    assert model.decode_head.conv_seg.bias.tolist() == [0, 1, 0, 2]
    quantised = torch.quantize_per_tensor(torch.tensor([0.5, 1, 0, 2]), 0.5, 0, torch.quint8)
    torch.save({**state, name: quantised}, tmp_path / "x.pth")
    load_checkpoint(model, tmp_path / "x.pth")
    assert model.decode_head.conv_seg.bias.tolist() == [0.5, 1, 0, 2]


def test_only_what_is_used_is_read(tmp_path):
    """Weights are views of the file: a checkpoint of 260 MB, most of it the optimiser's, takes no memory to read."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "large.pth"
    torch.save({"state_dict": {"a": torch.ones(3), "b": torch.zeros(1 << 20)}, "optimizer": torch.zeros(1 << 26)}, path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = read_checkpoint(path)
    assert checkpoint.state_dict["a"].sum() == 3
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1 << 25
