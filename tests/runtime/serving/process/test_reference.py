# SPDX-License-Identifier: Apache-2.0
"""PyTorch and its exported file, served side by side."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from freqfusion import create_model
from freqfusion_export.networks.checkpoint_hash import checkpoint_sha256
from freqfusion_export.parity.reference_source import reference_source
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.errors import InputError, ModelFileError
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.serving.scheduling.registry import parse_source
from page_browser import browsing
from PIL import Image
from safetensors.torch import save_file
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from server_process import ServerProcess
from small_models import image_manifest, write_image_model


@pytest.fixture(scope="module")
def pair(checkpoint) -> tuple[Path, Path]:
    """The exported file and its checkpoint."""
    return checkpoint / "segnext.onnx", checkpoint / "segnext.pth"


@pytest.fixture(scope="module")
def both(pair, tmp_path_factory) -> Iterator[ServerProcess]:
    """The command with both of them."""
    started = ServerProcess(
        [pair[0]], "--reference", str(pair[1]), "--threads", "2", folder=tmp_path_factory.mktemp("server")
    )
    assert "segnext-pytorch:1 is ready" in started._line()
    yield started
    assert started.terminate() == 0


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "waves.png"
    y, x = np.mgrid[:96, :128]
    Image.fromarray(np.stack([2 * x, 2 * y, x + y], axis=2).astype(np.uint8)).save(path)
    return path


def labels_by(server: ServerProcess, name: str, photo: Path) -> np.ndarray:
    status, _, body = server.ask("POST", f"/v1/segment?model={name}", photo.read_bytes())
    assert status == 200
    with Image.open(io.BytesIO(body)) as image:
        return np.asarray(image)


def test_both_are_served_and_agree(both, pair, photo):
    entries = {entry["name"]: entry for entry in json.loads(both.ask("GET", "/v1/models")[2])["models"]}
    assert entries["segnext-pytorch"]["engine"] == f"PyTorch {torch.__version__}, cpu"
    assert entries["segnext-pytorch"]["sha256"] == sha256_of(pair[1])
    assert entries["segnext-pytorch"]["classes"] == entries["segnext"]["classes"]
    engine, reference = labels_by(both, "segnext", photo), labels_by(both, "segnext-pytorch", photo)
    assert len(np.unique(engine)) > 1
    assert np.mean(engine == reference) > 0.999


def test_the_page_lays_them_side_by_side(both, photo, tmp_path):
    expected = np.mean(labels_by(both, "segnext", photo) == labels_by(both, "segnext-pytorch", photo))
    with browsing(tmp_path) as page:
        page.open(f"{both.url}/")
        page.choose(photo)
        Select(page.one("#against")).select_by_visible_text("segnext-pytorch")
        page.wait_for_answers(2)
        assert f"PyTorch {torch.__version__}" in page.one("#models").text
        shown = float(page.one(".agreement strong").text.strip("<> %")) / 100
        assert abs(shown - expected) < 0.001
        divider = page.one("#divider")
        divider.send_keys(Keys.HOME)
        assert divider.get_dom_attribute("aria-valuetext") == "0 % segnext, 100 % segnext-pytorch"
        assert page.errors() == []


def test_the_session_refuses_what_is_no_input(pair):
    source = reference_source(pair[1], [parse_source(pair[0])])
    session = source.opener(source.path)
    assert session.operator_paths == ()
    with pytest.raises(InputError, match=r"the inputs are \['images'\], got \['picture'\]"):
        session.run({"picture": np.zeros((1, 3, 32, 32), np.float32)})
    for wrong, message in (
        (np.zeros((1, 3, 32, 32)), "'images' must be float32, got float64"),
        (np.zeros((1, 3, 32, 40), np.float32), "multiples of 32, got 32 x 40"),
        (np.zeros((0, 3, 32, 32), np.float32), r"must have shape \(batch, 3, height, width\), got \(0, 3, 32, 32\)"),
    ):
        with pytest.raises(InputError, match=message):
            session.run({"images": wrong})


def test_only_the_files_own_checkpoint_is_compared(pair, models, tmp_path, capsys):
    file, checkpoint = pair
    other = tmp_path / "other.pth"
    other.write_bytes(checkpoint.read_bytes() + b"\0")
    for path, reason in (
        (other, "no served file was exported from"),
        (tmp_path / "no.pth", "no.pth does not exist. Name the checkpoint"),
    ):
        assert main(["serve", str(file), "--reference", str(path)]) == 2
        assert reason in capsys.readouterr().err
    assert main(["serve", str(file), "--reference", str(checkpoint), "--ray"]) == 2
    assert "Leave one of them out" in capsys.readouterr().err
    source = reference_source(checkpoint, [parse_source(models["colors"]), parse_source(f"net:2={file}")])
    assert (source.name, source.version) == ("net-pytorch", "2")
    with pytest.raises(ModelFileError, match=r"has sha256 [0-9a-f]{12}, the served file was exported from"):
        source.opener(other)


def test_a_checkpoint_in_shards_is_served_and_watched_as_one(tmp_path):
    network = create_model("segnext_t", num_classes=4)
    entries = list(network.state_dict().items())
    places = {name: f"{index % 2}.safetensors" for index, (name, _) in enumerate(entries)}
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in ("0.safetensors", "1.safetensors"):
        save_file({name: tensor for name, tensor in entries if places[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    file = write_image_model(tmp_path / "net.onnx", image_manifest(weights_sha256=checkpoint_sha256(folder)))
    for named in (folder, folder / "model.safetensors.index.json"):
        source = reference_source(named, [parse_source(file)])
        before = source.stamp()
        assert source.hasher(source.path) == checkpoint_sha256(folder)
        assert source.opener(source.path).manifest.model == "segnext_t"
        os.utime(folder / "1.safetensors", ns=(0, before[2][2] + 1))
        assert source.stamp() != before
    (folder / "0.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"0\.safetensors does not exist\. Name the checkpoint"):
        reference_source(folder, [parse_source(file)])


def test_serving_without_it_loads_no_torch(models):
    program = (
        "import sys; from freqfusion_runtime.serving.process.app import create_app;"
        f"create_app([{str(models['colors'])!r}]); from freqfusion_runtime.commands import serve;"
        "sys.exit('torch' in sys.modules or any(m.startswith('freqfusion_export') for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_of_a_checkpoint_with_both_the_weights_are_chosen(tmp_path, capsys):
    networks = [create_model("segnext_t", num_classes=4).eval() for _ in range(2)]
    trained, averaged = (network.state_dict() for network in networks)
    torch.save({"state_dict": trained, "model_ema": averaged}, tmp_path / "both.pth")
    manifest = image_manifest(weights_sha256=sha256_of(tmp_path / "both.pth"), nmf_bases_seed=0)
    file = write_image_model(tmp_path / "net.onnx", manifest)
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
    for which, network in ((None, networks[0]), ("model", networks[0]), ("ema", networks[1])):
        source = reference_source(tmp_path / "both.pth", [parse_source(file)], which=which)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images)).numpy()
        found = source.opener(source.path).run({"images": images})["logits"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())
    assert main(["serve", str(file), "--weights", "ema"]) == 2
    assert "--weights is about the checkpoint of --reference, and none is named" in capsys.readouterr().err
