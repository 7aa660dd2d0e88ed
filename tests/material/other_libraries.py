# SPDX-License-Identifier: Apache-2.0
"""Native libraries as another release of this project would have built them: they load, and compute nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_ONNXRUNTIME = """
void *RegisterCustomOps(void *options, void const *base) { return 0; }
char const *freqfusion_onnxruntime_attributes(char const *name) { return "ATTRIBUTES"; }
char const *freqfusion_onnxruntime_kernel_name(int index) { return 0; }
int freqfusion_onnxruntime_kernel_counts(long long *counts) { return 0; }
"""
_TENSORRT = """
void *getCreators(int *count) { *count = 0; return 0; }
int initFreqFusionPlugins(void) { return 0; }
int freqFusionTensorRTHeaders(void) { return 101400; }
char const *freqFusionPluginVersion(void) { return "1"; }
"""
_TORCH = "int freqfusion_abi_version(void) { return 0; }"


def write_onnxruntime_library(path: Path, interface: int | None, attributes: str = "") -> Path:
    """A library for ONNX Runtime.

    Args:
        path: Where.
        interface: What it says of itself; None for one from before that question.
        attributes: Names of those that the kernel of every operator reads.
    """
    said = "" if interface is None else f"int freqfusion_onnxruntime_interface(void) {{ return {interface}; }}"
    return _compile(path, _ONNXRUNTIME.replace("ATTRIBUTES", attributes) + said)


def write_tensorrt_library(path: Path, interface: int | None) -> Path:
    """A library for TensorRT, without a plugin in it; ``interface`` as above."""
    said = "" if interface is None else f"int freqFusionInterface(void) {{ return {interface}; }}"
    return _compile(path, _TENSORRT + said)


def write_torch_library(path: Path) -> Path:
    """A library for PyTorch, of interface 0."""
    return _compile(path, _TORCH)


def _compile(path: Path, program: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(path), "-"]
    subprocess.run(command, input=program, text=True, check=True)
    return path
