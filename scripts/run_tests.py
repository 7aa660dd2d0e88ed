# SPDX-License-Identifier: Apache-2.0
"""Runs the tests: what is independent on all cores, then what measures time or serves, one after another.

    python scripts/run_tests.py [--all] [PYTEST OPTION ...]

Without --all the tests marked `long` are left out. Exit status: that of pytest, 0 if all passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Of two cores; what a first run makes (exported files, compiled kernels) a second one has.
MINUTES = {False: "about 10 minutes on two cores the first time, 6 after that", True: "about 25 minutes on two cores"}
LEFT_OUT = (
    "whole detectors through TensorRT-RTX, CUDA and sanitizer builds, ResNet-101, long fuzzing, benchmarks, lower "
    "instruction sets"
)


def main() -> int:
    options = sys.argv[1:]
    is_all = "--all" in options
    options = [option for option in options if option != "--all"]
    left = "leaves nothing out but what needs a GPU" if is_all else f"leaves to `make test-all`: {LEFT_OUT}"
    print(f"{'All tests' if is_all else 'Tests'}: {MINUTES[is_all]}; {left}.", flush=True)
    wanted = "not gpu" if is_all else "not gpu and not long"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A process a core and a thread a process: most tests compute on one core anyway.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    parts = [
        (f"({wanted}) and not serial", ["-n", str(max(1, cores)), "--dist", "worksteal"], threads),
        (f"({wanted}) and serial", [], {}),
    ]
    worst = 0
    for marks, how, environment in parts:
        command = [sys.executable, "-m", "pytest", "--progress", "-q", "-m", marks, *how, *options]
        status = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
        worst = worst or status * (status != 5)  # 5: none of this part was asked for
    return worst


if __name__ == "__main__":
    sys.exit(main())
