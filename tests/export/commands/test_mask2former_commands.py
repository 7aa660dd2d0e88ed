# SPDX-License-Identifier: Apache-2.0
"""Commands on a Mask2Former's file, as users type them: pictures, long ones too, to label maps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from freqfusion_runtime import load
from freqfusion_runtime.commands.cli import main
from mask2former_files import small_file
from PIL import Image

pytestmark = pytest.mark.long  # tracing takes a minute, if no other test has


@pytest.fixture(scope="module")
def model():
    return small_file("image")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.Generator(np.random.PCG64(8))
    for name, size in {"usual": (45, 70), "long": (12, 120), "one": (1, 1)}.items():
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def labels_in(folder):
    return {path.name.partition(".")[0]: np.asarray(Image.open(path)) for path in folder.glob("*.labels.png")}


def test_run_and_batch_label_every_picture_alike(model, pictures, tmp_path):
    assert main(["run", str(model), str(pictures), "--output", str(tmp_path / "run")]) == 0
    assert main(["batch", str(model), str(pictures), "--output", str(tmp_path / "batch"), "--workers", "1"]) == 0
    one_by_one, together = labels_in(tmp_path / "run"), labels_in(tmp_path / "batch")
    assert {name: labels.shape for name, labels in one_by_one.items()} == {
        "usual": (45, 70),
        "long": (12, 120),
        "one": (1, 1),
    }
    for name, labels in one_by_one.items():
        np.testing.assert_array_equal(together[name], labels)


def test_a_batch_of_two_is_two_pictures(model):
    pictures = np.random.Generator(np.random.PCG64(9)).integers(0, 256, (2, 45, 70, 3), dtype=np.uint8)
    session = load(model).session
    (together,) = session.run({"image": pictures}).values()
    for picture, labels in zip(pictures, together, strict=True):
        (alone,) = session.run({"image": picture[None]}).values()
        assert (alone[0] == labels).mean() > 0.999  # sums in another order may decide a tie


def test_a_repository_for_triton_holds_it(model, tmp_path):
    assert main(["triton", str(model), "--output", str(tmp_path / "repository")]) == 0
    assert (tmp_path / "repository" / "image" / "1" / "model.onnx").read_bytes() == model.read_bytes()


def test_inspect_tells_of_its_nodes(model, tmp_path):
    assert main(["inspect", str(model), "--json", str(tmp_path / "facts.json")]) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    operators = {node["operator"] for node in facts["freqfusion_nodes"] if node["has_function_body"]}
    assert {"DeformableAttention", "QueryArgmax", "PrepareImage", "AdaptiveFilter"} <= operators
