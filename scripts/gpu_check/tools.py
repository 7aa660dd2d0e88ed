# SPDX-License-Identifier: Apache-2.0
"""The parts of the GPU check that run in a process of their own: compute-sanitizer, and TensorRT's enqueue."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SANITIZER_EXIT = 7


def find_sanitizer() -> str | None:
    default = "/usr/local/cuda/bin/compute-sanitizer"
    return shutil.which("compute-sanitizer") or (default if Path(default).is_file() else None)


def last_lines(text: str, count: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


def check_sanitizer(library: Path, tool: str, timeout_s: float) -> str | None:
    """Runs a part of the small cases under ``tool`` (memcheck, racecheck).

    Returns:
        What it found, or None if nothing.
    """
    sanitizer = find_sanitizer()
    if sanitizer is None:
        print(f"compute-sanitizer {tool}: not run, this machine does not have it")
        return None
    # PyTorch's own kernels prepare and compare the tensors; only ours are watched.
    command = [sanitizer, f"--tool={tool}", f"--error-exitcode={SANITIZER_EXIT}", "--kernel-name", "kns=freqfusion"]
    command += [sys.executable, str(HERE), "--watched", str(library), "--time-budget", str(timeout_s)]
    command += ["--thin", "11" if tool == "memcheck" else "17"]
    # Without the cache every tensor is an allocation of its own, whose ends the tool knows.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        return f"compute-sanitizer {tool} took longer than the {timeout_s:.0f} s that were left"
    if done.returncode != 0:
        return f"compute-sanitizer {tool} ended with {done.returncode}:\n{last_lines(done.stdout + done.stderr)}"
    print(f"compute-sanitizer {tool}: {last_lines(done.stdout, 1)}")
    return None


def find_nvinfer() -> Path | None:
    """The libnvinfer (full or lean) that this Python's TensorRT loads; None without TensorRT."""
    for name in ("tensorrt", "tensorrt_lean"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            if match := re.search(r"(/\S*/libnvinfer(?:_lean)?\.so\S*)$", line):
                return Path(match[1])
    return None


def check_tensorrt(plugin: Path, program: Path, timeout_s: float) -> str | None:
    """Loads the plugin into TensorRT's registry and runs ``enqueue`` of every operator, type, format and tactic.

    Returns:
        What went wrong, or None.
    """
    nvinfer = find_nvinfer()
    if nvinfer is None:
        print("TensorRT plugin: built, not run; neither tensorrt nor tensorrt_lean can be imported")
        return None
    try:
        done = subprocess.run(
            [str(program), str(plugin), str(nvinfer)], capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return f"the TensorRT plugin's enqueue took longer than the {timeout_s:.0f} s that were left"
    if done.returncode != 0:
        return f"the TensorRT plugin's enqueue ended with {done.returncode}:\n{last_lines(done.stdout + done.stderr)}"
    count = len(done.stdout.splitlines())
    print(f"TensorRT plugin: {count} runs of enqueue through {nvinfer.name} are right")
    return None
