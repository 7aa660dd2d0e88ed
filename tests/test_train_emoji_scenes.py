# SPDX-License-Identifier: Apache-2.0
"""The training script of the emoji scenes learns, stops, goes on, and writes a checkpoint that loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import freqfusion
import pytest
import torch
from freqfusion.ham_head import BilinearFusion
from freqfusion_runtime.evaluation.emoji_scenes import EmojiFontError, EmojiScenes
from places import EXAMPLES

FOLDER = EXAMPLES / "emoji_scenes"


def train(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(FOLDER / "train.py"), str(folder), "--side", "64", "--final-side", "64", *settings]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


OVERFIT = ("--scenes", "8", "--batch", "8", "--steps", "30", "--warm-up", "8", "--lr", "2e-3", "--threads", "2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The model with FreqFusion, trained on eight scenes only."""
    try:
        EmojiScenes("train")
    except EmojiFontError:
        pytest.skip("needs the Debian package fonts-noto-color-emoji")
    folder = tmp_path_factory.mktemp("run")
    done = train(folder, *OVERFIT)
    assert done.returncode == 0, done.stderr
    return folder


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "segnext_t.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_overfits_eight_scenes(run):
    accuracies = [line["pixel_accuracy"] for line in lines(run)]
    assert len(accuracies) == 30
    assert accuracies[0] < 0.8
    assert min(accuracies[-5:]) > 0.95


@pytest.mark.long
def test_the_finished_weights_load_by_their_keys(run):
    model, name, checkpoint = freqfusion.load_model(run / "segnext_t.safetensors")
    assert name == "segnext_t"
    assert checkpoint.image_size == (64, 64)
    trained = torch.load(run / "segnext_t.state.pt", weights_only=True)["model"]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, trained[key], rtol=2**-10, atol=2**-24)  # fp16 and back


@pytest.mark.long
def test_a_finished_run_has_nothing_left_to_do(run):
    before = (run / "segnext_t.state.pt").stat().st_mtime_ns
    assert train(run, *OVERFIT).returncode == 0
    assert len(lines(run)) == 30
    assert (run / "segnext_t.state.pt").stat().st_mtime_ns == before


@pytest.mark.long
def test_other_settings_do_not_go_on_from_it(run):
    done = train(run, *OVERFIT, "--lr", "1e-3")
    assert done.returncode == 1
    assert "is of a run with {'lr': 0.002}. Give the same settings to go on, or another folder." in done.stderr


@pytest.mark.long
def test_a_stopped_run_ends_where_an_unbroken_one_does(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import train as script

    def run_to_the_end(folder: Path) -> None:
        settings = ["--side", "64", "--final-side", "96", "--final-steps", "2", "--batch", "2", "--steps", "5"]
        settings += ["--model", "segnext_t_bilinear", "--save-minutes", "0", "--warm-up", "2"]
        monkeypatch.setattr(sys, "argv", ["train.py", str(folder), *settings])
        script.main()

    run_to_the_end(tmp_path / "unbroken")
    draw, drawn = script.draw_batch, []

    def draw_three(*arguments):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(script, "draw_batch", draw_three)
    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(tmp_path / "stopped")
    monkeypatch.setattr(script, "draw_batch", draw)
    run_to_the_end(tmp_path / "stopped")
    unbroken, stopped = (
        torch.load(tmp_path / name / "segnext_t_bilinear.state.pt", weights_only=True)["model"]
        for name in ("unbroken", "stopped")
    )
    for key, value in unbroken.items():
        torch.testing.assert_close(stopped[key], value, rtol=0, atol=0)


def test_starts_from_the_twin_with_its_head_reordered(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from train import start_from

    torch.manual_seed(0)
    twin = freqfusion.create_model("segnext_t_bilinear", num_classes=9)
    torch.save(twin.state_dict(), tmp_path / "twin.pt")
    model = freqfusion.create_model("segnext_t", num_classes=9)
    start_from(model, tmp_path / "twin.pt")
    # With FreqFusion replaced by what the twin has, both are one function.
    model.get_submodule("decode_head").freqfusions = torch.nn.ModuleList(BilinearFusion() for _ in range(2))
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = twin(images)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=5e-5 * expected.std().item())
