# SPDX-License-Identifier: Apache-2.0
"""The gate holds two real sessions against each other. ONNX Runtime plays the engine, since a plan needs a GPU."""

from __future__ import annotations

import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from freqfusion_runtime.commands.build import delete_same
from freqfusion_runtime.engines.errors import GateError
from freqfusion_runtime.engines.gate import check_engine
from freqfusion_runtime.engines.report import gate_facts, gate_lines
from freqfusion_runtime.files import sha256_of
from freqfusion_runtime.manifest import Precision
from freqfusion_runtime.onnxruntime_session import OnnxRuntimeSession
from freqfusion_runtime.segmenter import Segmenter
from freqfusion_runtime.session import Session
from freqfusion_runtime.tolerances import LOGIT_BOUNDS, TASK_BOUNDS
from onnx import numpy_helper
from PIL import Image
from small_models import image_manifest, tensor_manifest, write_image_model, write_tensor_model

WRITERS = {"tensor": (write_tensor_model, tensor_manifest), "image": (write_image_model, image_manifest)}


@pytest.fixture
def picture(tmp_path) -> Path:
    y, x = np.mgrid[:60, :90]
    photo = np.stack([2 * x, 4 * y, 255 - 2 * x], axis=-1).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


def session(folder: Path, interface: str, bias: float = 0.0, precision: str = "fp32") -> Session:
    """The small model; ``bias`` is added to the first class's score and so changes labels."""
    write, manifest = WRITERS[interface]
    path = write(folder / f"{interface}{bias}{precision}.onnx", replace(manifest(), precision=precision))
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "bias":
            values = numpy_helper.to_array(tensor) + np.array([bias, 0, 0, 0], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, "bias"))
    onnx.save(model, path)
    return OnnxRuntimeSession(path)


@pytest.mark.parametrize("interface", WRITERS)
def test_the_same_network_passes(tmp_path, picture, interface):
    (result,) = check_engine(session(tmp_path, interface), session(tmp_path, interface), [picture])
    assert result.agrees
    levels = [(rung.reference, rung.level) for rung in result.rungs]
    assert levels == [("ONNX file", "network")] * (interface == "tensor") + [("ONNX file", "task")]
    assert result.rungs[-1].measures == {"label_agreement": 1.0, "miou": 1.0}


@pytest.mark.parametrize("interface", WRITERS)
def test_another_network_does_not(tmp_path, picture, interface):
    (result,) = check_engine(session(tmp_path, interface, bias=2.0), session(tmp_path, interface), [picture])
    assert not result.agrees
    assert not any(rung.agrees for rung in result.rungs)
    assert any("<-- beyond" in line for line in gate_lines([result]))
    assert gate_facts([result])[0]["rungs"][-1]["bounds"]["label_agreement"] == 0.999


def test_a_bound_belongs_to_the_files_precision(tmp_path, picture):
    (result,) = check_engine(session(tmp_path, "image", precision="fp16"), session(tmp_path, "image"), [picture])
    assert result.rungs[0].bounds == {"label_agreement": 0.995, "miou": 0.99}


def test_every_precision_has_its_bounds():
    precisions = set(typing.get_args(Precision))
    assert set(TASK_BOUNDS) == set(LOGIT_BOUNDS) == precisions


def test_the_noise_of_pytorch_is_printed_beside(tmp_path, picture):
    results = check_engine(session(tmp_path, "image"), session(tmp_path, "image"), [picture])
    assert "draws its NMF bases anew each time, agree in 91.5% of the labels" in gate_lines(results)[-1]


def test_pytorchs_own_label_maps_are_one_more_step(tmp_path, picture):
    engine = session(tmp_path, "image")
    segmentation = Segmenter(engine).predict(picture)
    segmentation.label_image().save(tmp_path / "photo.labels.png")
    (right,) = check_engine(engine, engine, [picture], tmp_path)
    assert [rung.reference for rung in right.rungs] == ["ONNX file", "PyTorch"]
    assert right.agrees
    Image.fromarray((segmentation.labels + 1) % 4).save(tmp_path / "photo.labels.png")
    (wrong,) = check_engine(engine, engine, [picture], tmp_path)
    assert [rung.agrees for rung in wrong.rungs] == [True, False]


def test_what_cannot_be_compared_is_refused(tmp_path, picture):
    engine = session(tmp_path, "image")
    with pytest.raises(GateError, match="the gate has no picture"):
        check_engine(engine, engine, [])
    with pytest.raises(GateError, match=r"photo\.labels\.png does not exist: there is no reference for photo\.png"):
        check_engine(engine, engine, [picture], tmp_path)
    (tmp_path / "photo.labels.png").write_bytes(b"no picture")
    with pytest.raises(GateError, match="is no picture"):
        check_engine(engine, engine, [picture], tmp_path)
    Image.new("L", (5, 5)).save(tmp_path / "photo.labels.png")
    with pytest.raises(GateError, match=r"has shape \(5, 5\), the picture's labels have \(60, 90\)"):
        check_engine(engine, engine, [picture], tmp_path)


def test_an_engine_that_fails_is_deleted_and_another_one_stays(tmp_path):
    failed, other = tmp_path / "failed.plan", tmp_path / "other.plan"
    for plan in (failed, other):
        plan.write_bytes(plan.name.encode())
        plan.with_suffix(".json").write_text("{}")
    sha256 = sha256_of(failed)
    delete_same(failed, sha256)
    delete_same(other, sha256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "other.plan"]
