# SPDX-License-Identifier: Apache-2.0
"""``freqfusion run`` on networks of arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from array_networks import expected_of, inputs_of, write_network
from freqfusion_runtime.commands.cli import main
from places import EXAMPLES
from small_models import write_tensor_model


@pytest.fixture
def model(tmp_path):
    return write_network(tmp_path / "net.onnx")


def save(path, arrays):
    np.savez(path, **arrays)
    return path


def test_an_archive_goes_in_and_one_comes_out(tmp_path, model, capsys):
    inputs = inputs_of(2, 8, 6)
    archive = save(tmp_path / "in.npz", inputs)
    assert main(["run", str(model), str(archive), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "Pair fp32, tensor interface" in printed
    assert "both float32 2x3x8x6, pooled float32 2x3" in printed
    with np.load(tmp_path / "out" / "in.outputs.npz") as outputs:
        for name, values in expected_of(inputs).items():
            np.testing.assert_allclose(outputs[name], values, rtol=0, atol=1e-6)


def test_an_archive_that_it_does_not_take_does_not_stop_the_others(tmp_path, model, capsys):
    right = save(tmp_path / "right.npz", inputs_of(1, 8, 6))
    odd = save(tmp_path / "odd.npz", inputs_of(1, 6, 6))
    code = save(tmp_path / "code.npz", {"image": np.array([print], dtype=object)})
    (tmp_path / "damaged.npz").write_bytes(right.read_bytes()[:100])
    files = [str(path) for path in (odd, code, tmp_path / "damaged.npz", right)]
    assert main(["run", str(model), *files, "--output", str(tmp_path / "out"), "--json", str(tmp_path / "f.json")]) == 1
    printed = capsys.readouterr().err
    assert f"{odd}: the size height must be a multiple of 4, got 6" in printed
    assert f"{code}: it is no archive of arrays of numbers" in printed
    assert f"{tmp_path / 'damaged.npz'}: it is no archive of arrays of numbers: BadZipFile" in printed
    facts = json.loads((tmp_path / "f.json").read_text())
    assert [entry["archive"] for entry in facts["archives"]] == [str(right)]
    assert facts["archives"][0]["outputs"] == {"both": [1, 3, 8, 6], "pooled": [1, 3]}
    assert len(facts["failures"]) == 3


def test_pictures_and_archives_go_to_models_that_take_them(tmp_path, model, capsys):
    archive = save(tmp_path / "in.npz", inputs_of(1, 8, 6))
    out = ["--output", str(tmp_path / "out")]
    assert main(["run", str(model), str(EXAMPLES / "coffee.jpg"), *out]) == 2
    assert "no picture can be given to it. Give it arrays" in capsys.readouterr().err
    segmenter = write_tensor_model(tmp_path / "segmenter.onnx")
    assert main(["run", str(segmenter), str(archive), *out]) == 2
    assert "is made for semantic_segmentation and takes pictures, not" in capsys.readouterr().err
    assert main(["run", str(model), str(tmp_path / "none.npz"), *out]) == 2
    assert "none.npz does not exist, and" in capsys.readouterr().err


def test_inspect_tells_the_sizes(model, capsys):
    assert main(["inspect", str(model)]) == 0
    printed = capsys.readouterr().out
    assert "Pair fp32, network, tensor interface, weights: checkpoint" in printed
    assert "size height: a multiple of 4, 32 when it was exported" in printed


def test_the_gate_of_engines_is_for_pictures(model, capsys):
    assert main(["build", str(model), "--dry-run", "--flavour", "tensorrt-rtx", "--verify", str(EXAMPLES)]) == 2
    assert "--verify compares what is made of pictures" in capsys.readouterr().err
