# SPDX-License-Identifier: Apache-2.0
"""`freqfusion export`, `parity`, `bench` and `models` as users type them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from freqfusion import create_model
from freqfusion_export.bench import mask2former, segnext
from freqfusion_export.evaluation.segmenters import open_labeller
from freqfusion_export.passes.label_stages import STAGE_KEY
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.model_files.manifest import METADATA_KEY
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "waves.png"
    y, x = np.mgrid[:60, :90]
    Image.fromarray(np.stack([2 * x, 4 * y, x + y], axis=2).astype(np.uint8)).save(path)
    return path


def test_export_writes_what_it_says(checkpoint):
    facts = json.loads((checkpoint / "export.json").read_text())
    path = checkpoint / "segnext.onnx"
    assert facts["sha256"] == sha256_of(path)
    assert facts["model"] == "segnext_t"
    manifest = json.loads((checkpoint / "segnext.json").read_text())
    assert manifest["classes"][7] == "thing 7"
    assert manifest["weights_file"] == "segnext.pth"
    assert manifest["weights_sha256"] == sha256_of(checkpoint / "segnext.pth")
    assert manifest["nmf_bases_seed"] == 3
    assert sorted(p.name for p in checkpoint.iterdir()) == [
        "export.json",
        "segnext.json",
        "segnext.onnx",
        "segnext.pth",
    ]


@pytest.mark.parametrize("kernels", [pytest.param("never", marks=pytest.mark.long), "auto"])
def test_parity_holds_at_every_level(checkpoint, photo, tmp_path, kernels, capsys):
    arguments = [
        "parity",
        str(checkpoint / "segnext.onnx"),
        str(photo),
        "--checkpoint",
        str(checkpoint / "segnext.pth"),
    ]
    arguments += ["--layers", "--kernels", kernels, "--output", str(tmp_path), "--json", str(tmp_path / "parity.json")]
    assert main(arguments) == 0
    assert "PARITY HOLDS" in capsys.readouterr().out
    facts = json.loads((tmp_path / "parity.json").read_text())
    (entry,) = facts["pictures"]
    assert (facts["miou"], facts["least_miou"]) == (entry["miou"], 0.99)  # over all pictures, of which there is one
    levels = {
        level: sum(c["level"] == level for c in entry["comparisons"]) for level in ("operator", "module", "layer")
    }
    assert levels["operator"] == 16
    assert levels["module"] >= 4
    assert levels["layer"] > 200
    assert {"max_abs", "mean_abs", "rel_l2", "cosine"} <= set(entry["comparisons"][0])
    assert entry["label_agreement"] > 0.999
    assert entry["miou"] > 0.99
    assert Image.open(tmp_path / "waves.differences.png").size == (90, 60)


def test_parity_finds_the_stage_that_is_wrong(checkpoint, photo, tmp_path, capsys):
    model = onnx.load(checkpoint / "segnext.onnx")
    stage = "backbone.block3.2"
    labels = [{p.key: p.value for p in node.metadata_props}.get(STAGE_KEY) for node in model.graph.node]
    node = model.graph.node[labels.index(stage)]
    weight = next(t for t in model.graph.initializer if t.name in _weights_before(model, node))
    array = onnx.numpy_helper.to_array(weight) * 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), weight.name))
    onnx.save(model, tmp_path / "spoiled.onnx")
    arguments = ["parity", str(tmp_path / "spoiled.onnx"), str(photo), "--checkpoint", str(checkpoint / "segnext.pth")]
    assert main([*arguments, "--layers"]) == 1
    output = capsys.readouterr().out
    assert "PARITY BROKEN" in output
    first = next(line for line in output.splitlines() if "first beyond tolerance" in line)
    assert stage in first


def _weights_before(model, node):
    """Initializers of the convolution that computes one of the node's inputs."""
    producers = {output: n for n in model.graph.node for output in n.output}
    conv = next(producers[name] for name in node.input if producers[name].op_type == "Conv")
    return conv.input


def test_parity_wants_the_checkpoint_of_the_file(checkpoint, photo, tmp_path, capsys):
    other = tmp_path / "other.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, other)
    shards = tmp_path / "shards"
    shards.mkdir()
    save_file({"a": torch.zeros(1)}, shards / "a.safetensors")
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    for given in (other, shards):
        assert main(["parity", str(checkpoint / "segnext.onnx"), str(photo), "--checkpoint", str(given)]) == 2
        assert "is another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "absent.pth"], "no such checkpoint: absent.pth"),
        (["export", "{checkpoint}", "--model", "segnext_x"], "unknown model 'segnext_x'"),
        (["export", "{checkpoint}", "--output", "model.pt"], "must end in .onnx"),
        (["parity", "{empty}", "{photo}", "--checkpoint", "{checkpoint}"], "empty.onnx"),
        (["parity", "{onnx}", "nowhere.png", "--checkpoint", "{checkpoint}"], "nowhere.png"),
    ],
)
def test_bad_input_is_one_line_and_status_2(checkpoint, photo, tmp_path, capsys, arguments, message):
    (tmp_path / "empty.onnx").write_bytes(b"")
    places = {
        "checkpoint": checkpoint / "segnext.pth",
        "onnx": checkpoint / "segnext.onnx",
        "photo": photo,
        "empty": tmp_path / "empty.onnx",
    }
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_models_are_listed(capsys):
    assert main(["models", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert "segnext_t" in json.loads(captured.out)["models"]
    assert "SegNeXt-T + FreqFusion" in captured.err


@pytest.mark.long
def test_bench_compares_what_is_there(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    arguments = ["bench", "--size", "64x64", "--rounds", "2", "--threads", "1", "--results", str(results)]
    assert main([*arguments, "--json", str(tmp_path / "bench.json")]) == 0
    facts = json.loads((tmp_path / "bench.json").read_text())
    assert {"bodies_to_naive", "bodies_to_twin"} <= set(facts["ratios"])
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert {line["entry"] for line in lines} >= {"PyTorch eager, unfold", segnext.BASELINE, "ours, function bodies"}
    for line in lines:
        assert {"p50_ms", "p99_ms", "peak_mb", "cpu", "versions", "git", "onnx_sha256"} <= set(line)
        assert 0 < line["p50_ms"] <= line["p99_ms"]
        assert line["peak_mb"] > 0


def test_naive_forms_compute_the_same(segnext_t):
    from freqfusion_export.bench.naive import naive_operators
    from reference_data import assert_matches_golden, golden
    from weights_spec import image

    with torch.inference_mode(), naive_operators():
        logits = segnext_t(torch.from_numpy(image(128, 128, 0)))
    assert_matches_golden(logits, golden("segnext_t_seed0_128x128")["logits"])


def test_naive_and_official_forms_of_mask2former_compute_the_same():
    from freqfusion_export.bench.naive import naive_operators
    from freqfusion_export.bench.official_mask2former import official_formulation
    from mask2former_files import small_network
    from mask2former_reference import error, weights_spec

    network, images = small_network(), torch.from_numpy(weights_spec.image(64, 96, 11))
    with torch.inference_mode():
        expected = network(images)
        for form in (naive_operators, official_formulation):
            with form():
                found = network(images)
            for actual, wanted in zip(found, expected, strict=True):
                assert error(actual, wanted.numpy()) < 1e-5  # the same sums in another order


@pytest.mark.parametrize("compared", [segnext, mask2former], ids=["segnext_t", "mask2former_swin_b"])
def test_every_ratio_of_bench_is_of_forms_that_are_timed(compared, tmp_path, monkeypatch):
    def nothing(*arguments, **keywords):
        return None

    monkeypatch.setattr(segnext, "export_naively", nothing)
    monkeypatch.setattr(mask2former, "trace_network", nothing)
    monkeypatch.setattr(mask2former, "inline", nothing)
    for module in (mask2former, segnext):
        monkeypatch.setattr(module, "create_model", nothing)
        monkeypatch.setattr(module, "export", nothing)
        monkeypatch.setattr(module, "has_openvino", lambda: True)
        monkeypatch.setattr(module, "usable_library", lambda: tmp_path)
    entries = {entry.name for entry in compared.make_entries(tmp_path, 64, 64)}
    assert compared.BASELINE in entries
    assert {name for pair in compared.PAIRS.values() for name in pair} <= entries | {mask2former.PEER}


@pytest.mark.parametrize("size", ["512", "500x512", "0x64", "axb"])
def test_bench_refuses_sizes_that_do_not_fit(size, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--size", size])
    assert repr(size) in capsys.readouterr().err


def test_a_file_without_manifest_is_named(photo, checkpoint, tmp_path, capsys):
    model = onnx.load(checkpoint / "segnext.onnx")
    kept = [p for p in model.metadata_props if p.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "bare.onnx")
    assert (
        main(["parity", str(tmp_path / "bare.onnx"), str(photo), "--checkpoint", str(checkpoint / "segnext.pth")]) == 2
    )
    assert "manifest" in capsys.readouterr().err


def test_inspect_and_export_tell_what_they_took(tmp_path, capsys):
    state = create_model("segnext_t", num_classes=3).state_dict()
    (tmp_path / "shards").mkdir()
    weight_map = {}
    for shard, names in (("a.safetensors", list(state)[:300]), ("b.safetensors", list(state)[300:])):
        save_file({f"module.{name}": state[name].clone() for name in names}, tmp_path / "shards" / shard)
        weight_map |= {f"module.{name}": shard for name in names}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert main(["inspect", str(tmp_path / "shards"), "--json", str(tmp_path / "facts.json")]) == 0
    assert "stripped 'module.' from 596 names" in capsys.readouterr().out
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["model"] == "segnext_t"
    assert facts["notes"] == ["stripped 'module.' from 596 names"]
    assert facts["size_bytes"] == sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())

    torch.save({"model_ema": state}, tmp_path / "ema.pth")
    assert main(["export", str(tmp_path / "ema.pth"), "--weights", "model"]) == 2
    assert "no weights as trained (model), only averaged weights (ema) in 'model_ema'" in capsys.readouterr().err


def test_every_command_takes_either_weights_of_a_checkpoint_and_says_which(segnext_t, tmp_path, capsys):
    trained = create_model("segnext_t", num_classes=150).state_dict()
    torch.save({"state_dict": trained, "model_ema": segnext_t.state_dict()}, tmp_path / "both.ckpt")
    for which, note in (
        ("model", "took the weights as trained (model); there are averaged weights (ema) too, in 'model_ema'"),
        ("ema", "took the averaged weights (ema); there are weights as trained (model) too, in 'state_dict'"),
    ):
        assert main(["inspect", str(tmp_path / "both.ckpt"), "--weights", which]) == 0
        assert note in capsys.readouterr().out
        labeller = open_labeller(tmp_path / "both.ckpt", None, "cpu", 0, "never", which)
        assert note in labeller.notes
