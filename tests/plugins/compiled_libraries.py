# SPDX-License-Identifier: Apache-2.0
"""The compiled libraries, built once per test run by the script that users build them with."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from build_plugins import wants_cuda  # noqa: E402


def build(*arguments: str) -> None:
    """Runs scripts/build_plugins.py; skips the test where this machine lacks a part. CI has them all and fails."""
    command = [sys.executable, str(ROOT / "scripts" / "build_plugins.py"), "--jobs", "2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2 and not os.environ.get("CI"):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@functools.cache
def cpu_libraries() -> Path:
    """Folder with libfreqfusion_c.so and libfreqfusion_onnxruntime.so of this source tree, built for the CPU."""
    # What `make plugins` has compiled is compiled; only where it finds a GPU does it compile something else.
    folder = ROOT / "build" / ("test-plugins" if wants_cuda("auto") else "plugins")
    installed = ROOT / "build" / "test-lib"
    build("--cuda=off", "--require", "c", "onnxruntime", "--build", str(folder), "--install", str(installed))
    return installed


@functools.cache
def cuda_libraries() -> Path:
    """Build folder with libfreqfusion_tensorrt.so and its test programs, compiled for one architecture."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed: the TensorRT plugin holds CUDA kernels")
    folder = ROOT / "build" / "test-cuda"
    build(
        "--cuda=on",
        "--cuda-architectures=90-real",
        "--tests",
        "--require",
        "tensorrt",
        "--build",
        str(folder),
        "--install",
        str(folder / "lib"),
    )
    return folder


@functools.cache
def sanitized_libraries() -> Path:
    """The same with AddressSanitizer and UBSan."""
    folder = ROOT / "build" / "sanitize"
    build("--cuda=off", "--require", "c", "onnxruntime", "--sanitize=address,undefined", "--build", str(folder))
    return folder
