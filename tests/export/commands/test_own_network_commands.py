# SPDX-License-Identifier: Apache-2.0
"""Networks of one's own on the command line: from the code that is named to a file that runs and is compared."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from freqfusion_export.commands.precision_bisection import bisect
from freqfusion_export.parity import network_parity
from freqfusion_export.precision.retyping import Retyping
from freqfusion_runtime.commands.cli import main
from own_network_files import exported, tensors
from own_networks import SharedFusions, make
from places import ROOT

CODE = """
import torch
from embedding_networks import FreqFusion, Pair, filled

def build():
    return Pair(FreqFusion(8, 12))

def words():
    return "words"

def fails():
    raise RuntimeError("no weights here")

weights = 3
"""
SIZES = [
    "--input",
    "image=1x3x32x40",
    "--dynamic",
    "image=0:batch,2:height:4,3:width:4",
    "--outputs",
    "taps,fine,coarse",
]


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A folder with a user's code, its weights and the file that the command made of both."""
    from embedding_networks import FreqFusion, Pair, filled

    folder = tmp_path_factory.mktemp("user")
    (folder / "somebodys_networks.py").write_text(CODE)
    torch.save({"state_dict": filled(Pair(FreqFusion(8, 12))).state_dict()}, folder / "weights.pt")
    np.savez(folder / "in.npz", **tensors({"image": (2, 3, 48, 24)}))
    command = [sys.executable, "-m", "freqfusion_runtime.commands.cli", "export"]
    command += ["--network", "somebodys_networks:build", "--checkpoint", "weights.pt", *SIZES, "--output", "net.onnx"]
    places = [str(ROOT / place) for place in ("models", "export", "runtime", "tests/material", "tests")]
    done = subprocess.run(
        [*command, "--json", "facts.json"],
        cwd=folder,
        env={"PYTHONPATH": ":".join(places), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder


@pytest.fixture(autouse=True)
def there(user, monkeypatch):
    monkeypatch.chdir(user)
    monkeypatch.syspath_prepend(str(user))


def test_export_says_whose_code_runs_and_what_was_adopted(user):
    printed = (user / "printed.txt").read_text()
    assert f"running the code of {user / 'somebodys_networks.py'}, as --network asks" in printed
    assert "hr, lr -> (taps, hr, lr)" in printed
    assert "the whole network: " in printed
    facts = json.loads((user / "facts.json").read_text())
    assert (facts["model"], facts["interface"]) == ("build", "tensor")
    assert facts["operators"] == {"AdaptiveFilter": 5}


def test_parity_compares_operators_modules_and_outputs(user, capsys):
    named = ["--network", "somebodys_networks:build", "--checkpoint", "weights.pt"]
    assert main(["parity", "net.onnx", "in.npz", *named, "--layers", "--json", "parity.json"]) == 0
    assert "PARITY HOLDS" in capsys.readouterr().out
    (entry,) = json.loads((user / "parity.json").read_text())["archives"]
    levels = [comparison["level"] for comparison in entry["comparisons"]]
    assert {level: levels.count(level) for level in ("operator", "network")} == {"operator": 5, "network": 3}
    assert "layer" in levels


def test_parity_finds_other_weights(user, capsys):
    state = torch.load("weights.pt", weights_only=True)["state_dict"]
    torch.save({name: value * 1.01 for name, value in state.items()}, "other.pt")
    assert (
        main(["parity", "net.onnx", "in.npz", "--network", "somebodys_networks:build", "--checkpoint", "other.pt"]) == 2
    )
    assert "other.pt is another file" in capsys.readouterr().err
    assert main(["parity", "net.onnx", "in.npz", "--network", "somebodys_networks:build"]) == 1
    assert "PARITY BROKEN" in capsys.readouterr().out


def test_bench_times_the_file_beside_the_module(user, capsys):
    named = ["--network", "somebodys_networks:build", "--checkpoint", "weights.pt"]
    assert main(["bench", "net.onnx", *named, "--rounds", "1", "--json", "bench.json"]) == 0
    facts = json.loads((user / "bench.json").read_text())
    assert {"the file, function bodies", "PyTorch, the module as it is"} <= {e["entry"] for e in facts["entries"]}
    assert facts["input_shapes"] == {"image": [1, 3, 32, 40]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--network", "build", *SIZES],
            "--network must be MODULE:FACTORY such as",
        ),
        (["--network", "nowhere:build", *SIZES], "there is no module 'nowhere' in "),
        (["--network", "somebodys_networks:none", *SIZES], "has nothing to call named 'none'"),
        (["--network", "somebodys_networks:weights", *SIZES], "has nothing to call named 'weights'"),
        (["--network", "somebodys_networks:words", *SIZES], "makes str, expected a torch.nn.Module"),
        (["--network", "somebodys_networks:fails", *SIZES], "fails in somebodys_networks.py:12 (`raise RuntimeError("),
        (["--network", "somebodys_networks:build"], "needs its inputs' sizes; give --input images=1x3x512x512"),
        (
            ["--network", "somebodys_networks:build", *SIZES, "--set", "nmf_rank=3"],
            "--set and --ignore-setting are",
        ),
        (["weights.pt", *SIZES], "--input is about a network of one's own; name that with --network"),
        ([], "there is nothing to export; name a checkpoint of ours, or a network of one's own"),
    ],
)
def test_what_cannot_be_exported_is_said(capsys, arguments, message):
    assert main(["export", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["image", "image=1x3xx", "image=1x3:float128"])
def test_an_input_is_a_name_and_sizes(capsys, text):
    with pytest.raises(SystemExit):
        main(["export", "--network", "a:b", "--input", text])
    assert "must be NAME=SIZES such as images=1x3x512x512" in " ".join(capsys.readouterr().err.split())


def test_a_dynamic_axis_is_a_number_and_a_size(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--network", "a:b", "--dynamic", "image=height"])
    assert "must be NAME=AXIS:SIZE,... such as images=0:batch" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["parity", "net.onnx", "in.npz"], "there is nothing to compare with"),
        (
            ["parity", "net.onnx", "in.npz", "--checkpoint", "weights.pt"],
            "Name the code that makes it, such as",
        ),
        (["parity", "net.onnx", "in.npz", "--network", "a:b", "--bisect"], "--bisect is for fp16 and bf16"),
        (["parity", "net.onnx", "in.npz", "--network", "a:b", "--output", "x"], "--output is about pictures"),
        (["parity", "net.onnx", "x.npz", "--network", "a:b"], "x.npz does not exist, and net.onnx takes arrays"),
        (["bench", "--network", "a:b"], "--network is about a file of one's own network; name that too"),
    ],
)
def test_what_cannot_be_compared_is_said(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_bisection_judges_outputs_where_there_are_no_labels(monkeypatch):
    path, lines = exported("shared", "fp16"), []
    parity = network_parity.NetworkParity(path, make(SharedFusions))
    result = parity.on_inputs("in", tensors({"images": (1, 3, 16, 24)}))
    assert result.agrees
    retyping = Retyping(path)
    everything = [name for nodes in retyping.stages.values() for name in nodes]
    (least,) = parity.on_variant(retyping.keeping(everything), result).comparisons
    (found,) = (comparison for comparison in result.comparisons if comparison.level == "network")
    assert least.max_over_std < found.max_over_std
    middle = (least.max_over_std + found.max_over_std) / 2
    monkeypatch.setattr(network_parity, "LOGIT_BOUNDS", {"fp16": middle})
    known = parity.on_inputs("in", tensors({"images": (1, 3, 16, 24)}))
    assert not known.agrees
    bisection = bisect(parity, path, [known], lines.append)
    assert bisection.nodes
    assert len(bisection.nodes) < len(everything)
    assert bisection.trials[0].miou is None
    assert parity.on_variant(retyping.keeping(bisection.nodes), known).agrees
