# SPDX-License-Identifier: Apache-2.0
"""Readers of ONNX that know nothing of ours, on the inlined file; `make consumers` tries many more."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from freqfusion_runtime.building.plain_file import write_plain_file
from freqfusion_runtime.predictors.opening import open_session
from places import ROOT

READERS = ROOT / "benchmarks" / "consumers" / "readers"
SHAPE = (1, 3, 64, 96)


@pytest.fixture(scope="module")
def files(exported, tmp_path_factory):
    """The inlined file with free and with fixed sizes, and what they should compute of what."""
    folder = tmp_path_factory.mktemp("consumers")
    write_plain_file(exported["tensor"], folder / "free.onnx", opset=17, ir_version=8)
    write_plain_file(exported["tensor"], folder / "fixed.onnx", shapes={"images": SHAPE}, opset=17, ir_version=8)
    images = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    np.savez(folder / "inputs.npz", images=images)
    return folder, open_session(exported["tensor"], kernels="never").run({"images": images})["logits"]


@pytest.mark.parametrize("form", ["free", "fixed"])
@pytest.mark.parametrize(
    ("package", "program"),
    [("openvino", "with_openvino.py"), ("onnx", "with_onnx_reference.py")],
    ids=["OpenVINO", "onnx"],
)
def test_strangers_compute_what_it_says(files, package, program, form, tmp_path):
    pytest.importorskip(package)
    folder, expected = files
    command = [
        sys.executable,
        READERS / program,
        folder / f"{form}.onnx",
        folder / "inputs.npz",
        tmp_path / "found.npz",
    ]
    subprocess.run(command, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npz")["logits"], expected, rtol=0, atol=1e-4 * expected.std())
