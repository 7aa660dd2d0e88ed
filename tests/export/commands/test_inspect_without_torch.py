# SPDX-License-Identifier: Apache-2.0
"""`freqfusion inspect` imports PyTorch for checkpoints alone: a machine that serves has none, and it takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest
from freqfusion_runtime.agreement.reference_data import ReferenceFacts, write_reference_data
from small_models import tensor_manifest, write_tensor_model

INSPECT = """
import sys
from freqfusion_runtime.commands.cli import main
status = main(["inspect", sys.argv[1]])
print(sorted({"torch", "onnx", "onnx_ir", "onnxruntime", "freqfusion"} & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""


def write(path):
    if path.suffix == ".onnx":
        write_tensor_model(path)
    elif path.suffix == ".plan":
        path.write_bytes(b"ftrt" + bytes(60))
    else:
        facts = ReferenceFacts(
            onnx_file="net.onnx",
            onnx_sha256="a" * 64,
            checkpoint_file="net.pth",
            checkpoint_sha256="b" * 64,
            manifest=tensor_manifest().to_json(),
            operators=(),
            noise_floor=(),
        )
        write_reference_data(path, facts, b"", [])


@pytest.mark.parametrize(
    ("name", "told"),
    [("net.onnx", "net.onnx: ONNX"), ("net.plan", "plan of tensorrt"), ("reference.npz", "what PyTorch computed")],
)
def test_a_file_that_needs_no_pytorch_is_told_of_without_it(name, told, tmp_path):
    write(tmp_path / name)
    command = [sys.executable, "-c", INSPECT, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert told in done.stdout
