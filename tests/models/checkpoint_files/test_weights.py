# SPDX-License-Identifier: Apache-2.0
"""Which entries of a file are the model's: wrappers, prefixes, averages, and what only training uses."""

from __future__ import annotations

import collections

import pytest
import torch
from freqfusion import create_model, list_models, load_model, read_checkpoint
from freqfusion.checkpoint_files import weights
from freqfusion.errors import CheckpointError

NAMES = ("backbone.conv1.weight", "backbone.bn1.bias", "decode_head.conv_seg.weight", "decode_head.conv_seg.bias")
TRAINED = {name: torch.full((2, 3), float(i)) for i, name in enumerate(NAMES)}
AVERAGED = {name: tensor + 0.5 for name, tensor in TRAINED.items()}


def under(prefix, entries):
    return {f"{prefix}{name}": tensor for name, tensor in entries.items()}


@pytest.fixture
def read(tmp_path):
    def read(content, which=None):
        torch.save(content, tmp_path / "weights.pth")
        return read_checkpoint(tmp_path / "weights.pth", which)

    return read


def assert_taken(checkpoint, expected, *notes):
    assert list(checkpoint.state_dict) == list(expected)
    assert all(torch.equal(checkpoint.state_dict[name], tensor) for name, tensor in expected.items())
    told = "\n".join(checkpoint.notes)
    for note in notes:
        assert note in told, told


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model._orig_mod.", "module.model.", "net."])
def test_prefixes_are_stripped_and_told(read, prefix):
    checkpoint = read({"state_dict": under(prefix, TRAINED)})
    assert_taken(checkpoint, TRAINED, "from 4 names")


@pytest.mark.parametrize("stray", ["criterion.weight", "train_metric.total", "n_averaged", "loss_fn.class_weight"])
@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod."])
def test_a_stray_entry_outside_the_wrapped_model_is_left_out(read, prefix, stray):
    checkpoint = read({**under(prefix, TRAINED), stray: torch.zeros(1)})
    assert_taken(checkpoint, TRAINED, f"left out 1 entry ({stray}): outside the wrapped model", "stripped")


def test_a_wrapper_may_be_inside_a_name_and_around_some_names_only(read):
    names = {name.replace("backbone.", "backbone._orig_mod."): tensor for name, tensor in TRAINED.items()}
    assert_taken(read(names), TRAINED, "stripped '_orig_mod.' from 2 names")
    half = {f"module.{n}" if n.startswith("backbone.bn") else n: tensor for n, tensor in TRAINED.items()}
    assert_taken(read(half), TRAINED, "stripped 'module.' from 1 names")


def test_two_entries_of_one_name_are_refused(read):
    with pytest.raises(
        CheckpointError, match=r"two entries for backbone.conv1.weight: .*'module.backbone.conv1.weight'"
    ):
        read({**TRAINED, **under("module.", TRAINED)})


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"model": {"model": TRAINED}}, "'model' > 'model'"),
        ({"model": TRAINED, "epoch": torch.tensor(3)}, "'model'"),
        ({"checkpoint": {"state_dict": TRAINED}}, "'checkpoint' > 'state_dict'"),
        ({"net": TRAINED}, "'net'"),
        ({"weights": TRAINED}, "'weights'"),
        ({"params": TRAINED}, "'params'"),
        ({"something": TRAINED, "optimizer": {"state": under("exp_avg.", TRAINED)}}, "'something'"),
    ],
)
def test_weights_are_found_in_nested_dictionaries(read, content, place):
    assert_taken(read(content), TRAINED, f"took the entries of {place}")


def test_weights_in_a_dictionary_of_another_librarys_class(read):
    class Holder(collections.OrderedDict):
        pass

    globals()["Holder"], Holder.__qualname__ = Holder, "Holder"
    assert_taken(read({"state_dict": Holder(TRAINED)}), TRAINED)


def test_several_sets_of_weights_are_named(read):
    with pytest.raises(CheckpointError, match="holds 2 sets of weights, in 'first', 'second'; save the one"):
        read({"first": TRAINED, "second": AVERAGED})


def test_whole_pickled_modules_are_read_without_being_rebuilt(tmp_path):
    model = create_model("segnext_t", num_classes=3)
    torch.save(model, tmp_path / "whole.pth")
    loaded, name, checkpoint = load_model(tmp_path / "whole.pth")
    assert name == "segnext_t"
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    assert checkpoint.state_dict.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": TRAINED, "state_dict_ema": AVERAGED},
        {"model": TRAINED, "ema": AVERAGED},
        {"model": TRAINED, "ema": {"module": AVERAGED, "updates": 7}},
        {"model": TRAINED, "model_ema": under("module.", AVERAGED)},
        {"state_dict": {**under("model.", TRAINED), **under("ema_model.module.", AVERAGED)}},
        {"state_dict": {**under("student.", TRAINED), **under("teacher.", AVERAGED)}},
        {"state_dict": {**TRAINED, **{f"ema_{n.replace('.', '_')}": t for n, t in AVERAGED.items()}}},
        {"state_dict": TRAINED, "ema_state_dict": {**under("module.", AVERAGED), "steps": torch.tensor(3)}},
    ],
)
def test_of_two_kinds_of_weights_the_user_chooses(read, content):
    assert_taken(read(content), TRAINED, "took the weights as trained (model); there are averaged weights (ema) too")
    assert_taken(read(content, "model"), TRAINED)
    assert_taken(read(content, "ema"), AVERAGED, "took the averaged weights (ema); there are weights as trained")


def test_mmengine_saves_the_averages_in_the_place_of_the_weights(read):
    content = {
        "meta": {"mmengine_version": "0.10.7"},
        "state_dict": AVERAGED,
        "ema_state_dict": {**under("module.", TRAINED), "steps": torch.tensor(3)},
    }
    assert_taken(
        read(content), AVERAGED, "'state_dict' holds the averages: mmengine", "took the averaged weights (ema)"
    )
    assert_taken(read(content, "ema"), AVERAGED)
    assert_taken(read(content, "model"), TRAINED)


def test_averages_alone_are_taken_and_told(read):
    assert_taken(read({"ema": AVERAGED}), AVERAGED, "took the averaged weights (ema); there are no others")
    with pytest.raises(
        CheckpointError, match=r"no weights as trained \(model\), only averaged weights \(ema\) in 'ema'"
    ):
        read({"ema": AVERAGED}, "model")
    with pytest.raises(CheckpointError, match="no averaged weights"):
        read(TRAINED, "ema")


def test_entries_that_only_training_uses_are_left_out(read):
    extra = ("auxiliary_head.conv_seg.weight", "auxiliary_head.0.bias", "decode_head.loss_decode.class_weight")
    checkpoint = read({"state_dict": {**TRAINED, **{name: torch.zeros(1) for name in extra}}})
    assert_taken(checkpoint, TRAINED, "left out 3 entries (auxiliary_head.conv_seg.weight,", "only training uses them")


@pytest.mark.parametrize("name", list_models())
def test_no_rule_touches_a_models_own_names(name):
    with torch.device("meta"):
        names = dict.fromkeys(create_model(name).state_dict(), torch.zeros(1))
    found, _, notes = weights.find_weights(names)
    assert list(found) == list(names)
    assert notes == ()


def test_names_of_mmseg_since_0_31_are_renamed(tmp_path):
    model = create_model("segnext_t", num_classes=3)
    renamed = {name.replace(".dwconv.dwconv.", ".dwconv."): tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": renamed}, tmp_path / "mmseg.pth")
    _, name, checkpoint = load_model(tmp_path / "mmseg.pth")
    assert name == "segnext_t"
    assert "renamed 26 entries: mlp.dwconv of mmseg since 0.31 is mlp.dwconv.dwconv here" in checkpoint.notes


def test_entries_that_are_no_tensors_are_told(read):
    assert_taken(read({**TRAINED, "x": torch.nn.Linear}), TRAINED, "left out 1 entry (x): no plain tensors")


def test_dictionaries_and_modules_that_hold_each_other_over_and_over_end(read):
    inner = {"state_dict": TRAINED}
    for _ in range(5):
        inner = {f"part{i}": inner for i in range(300)}
    assert_taken(read(inner), TRAINED, "took the entries of 'part0' > 'part0'")
    module = torch.nn.Linear(2, 2)
    for _ in range(40):
        module = torch.nn.Sequential(module, module)
    with pytest.raises(CheckpointError, match=r"a pickled module of more than 100000 modules; save its state_dict\(\)"):
        read(module)
