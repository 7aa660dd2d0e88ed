# SPDX-License-Identifier: Apache-2.0
"""Compares opening a model with ONNX Runtime alone opening the same file: time and peak memory.

    python benchmarks/opening.py MODEL.onnx... [--results benchmarks/results/opening.jsonl]

Each opening is a process of its own that has imported what it needs before the clock starts; rounds are interleaved,
and ratios are medians of the rounds' ratios. `plain` has no kernels of ours and runs no check; `plain with kernels` has
the library registered, which puts fewer nodes into the graph. Memory is the growth of the resident set's peak (Linux).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

WAYS = ("ours", "plain", "plain with kernels")
OPEN = """
import json, sys, time
import onnxruntime
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.sessions.kernel_library import library_path
from freqfusion_runtime.sessions.onnxruntime_session import OnnxRuntimeSession
path, way, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":")) / 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before, start = status("VmRSS"), time.perf_counter()
if way == "ours":
    session = open_session(path, threads=threads, kernels="require")
else:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if way == "plain with kernels":
        options.register_custom_ops_library(str(library_path()))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
wall = time.perf_counter() - start
print(json.dumps({"wall_s": wall, "peak_mb": status("VmHWM") - before, "left_mb": status("VmRSS") - before}))
"""


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help="append the lines here as well")
    args = parser.parse_args()
    from freqfusion_export.bench.timing import machine

    for model in args.models:
        text = json.dumps({**compare(model, args.rounds, args.threads), **machine(args.threads)})
        print(text, flush=True)
        if args.results:
            with args.results.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def compare(model: Path, rounds: int, threads: int) -> dict[str, Any]:
    """Opens one model in every way, round after round."""
    from freqfusion_runtime.model_files.external_data import external_files

    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for index in range(rounds + 1):
        for way in WAYS if index % 2 else reversed(WAYS):
            command = [sys.executable, "-W", "ignore", "-c", OPEN, str(model), way, str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            if index:  # the first round brings the file into the system's memory
                found[way].append(json.loads(done.stdout))
    others = external_files(model)
    line: dict[str, Any] = {
        "model": model.name,
        "size_mb": round(sum(file.stat().st_size for file in (model, *others)) / 2**20),
        "external_files": len(others),
        "rounds": rounds,
    }
    for key in ("wall_s", "peak_mb", "left_mb"):
        line[key] = {way: round(statistics.median(run[key] for run in runs), 3) for way, runs in found.items()}
        for way in WAYS[1:]:
            ratios = [ours[key] / theirs[key] for ours, theirs in zip(found["ours"], found[way], strict=True)]
            line[f"{key}_to_{way.replace(' ', '_')}"] = round(statistics.median(ratios), 3)
    return line


if __name__ == "__main__":
    main()
