# SPDX-License-Identifier: Apache-2.0
"""Runs the tests: what is independent on all cores, then what measures time or serves, one after another.

    python scripts/run_tests.py [--all | --avx2] [PYTEST OPTION ...]

Without --all the tests marked `long` are left out. With it, those marked `numerics` run once more at AVX2, which --avx2
does alone. Exit status: that of pytest, 0 if all passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Of two cores; what a first run makes (exported files, compiled kernels) a second one has.
MINUTES = {False: "about 10 minutes on two cores the first time, 8 after that", True: "about 40 minutes on two cores"}
LEFT_OUT = (
    "whole detectors through TensorRT-RTX, CUDA and sanitizer builds, ResNet-101, long fuzzing, benchmarks, lower "
    "instruction sets"
)
# Holds libraries to AVX2 on a better processor, each by its own switch. MKL obeys on Intel's processors; ONNX Runtime
# has no switch (docs/precision.md).
AVX2 = {
    "FREQFUSION_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}


def main() -> int:
    options = [option for option in sys.argv[1:] if option not in ("--all", "--avx2")]
    is_all, is_avx2 = "--all" in sys.argv, "--avx2" in sys.argv
    if is_avx2:
        print("Tests of numbers, with all libraries but ONNX Runtime held to AVX2.", flush=True)
    else:
        left = "leaves nothing out but what needs a GPU" if is_all else f"leaves to `make test-all`: {LEFT_OUT}"
        print(f"{'All tests' if is_all else 'Tests'}: {MINUTES[is_all]}; {left}.", flush=True)
    wanted = "not gpu" if is_all else "not gpu and not long"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A process a core and a thread a process: most tests compute on one core anyway.
    side_by_side = ["-n", str(max(1, cores)), "--dist", "worksteal"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    parts: list[tuple[str, list[str], dict[str, str]]] = []
    if not is_avx2:
        parts.append((f"({wanted}) and not serial", side_by_side, threads))
        parts.append((f"({wanted}) and serial", [], {}))
    if is_all or is_avx2:
        parts.append(("numerics and not gpu and not long and not serial", side_by_side, {**threads, **AVX2}))
    worst = 0
    for marks, how, environment in parts:
        command = [sys.executable, "-m", "pytest", "--progress", "-q", "-m", marks, *how, *options]
        status = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
        worst = worst or status * (status != 5)  # 5: none of this part was asked for
    return worst


if __name__ == "__main__":
    sys.exit(main())
