# SPDX-License-Identifier: Apache-2.0
"""Times our reading of a large checkpoint beside ``torch.load``, and `freqfusion inspect` of every kind of file.

    python benchmarks/checkpoint_reading.py --folder DIR --results benchmarks/results/checkpoint_reading.jsonl

The checkpoint is one of mm: random weights of a detector, its config in ``meta``, momentum of the optimiser beside
them. Each reading is a process of its own that has imported what it needs before the clock starts; rounds are
interleaved, and ratios are medians of the rounds' ratios. ``used`` sums up every weight after reading, since weights
that are only mapped cost nothing until then. Memory is the growth of the resident set's peak (Linux), as a share of the
file. An inspection is the whole command, start of Python included. Files found in DIR are used again.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODEL = "panoptic_fpn_r50"
READ = """
import json, sys, time, torch
from freqfusion import read_checkpoint
path, reader, is_used = sys.argv[1], sys.argv[2], sys.argv[3] == "used"
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":")) / 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before, start = status("VmRSS"), time.perf_counter()
if reader == "ours":
    weights = read_checkpoint(path).state_dict
else:
    content = torch.load(path, weights_only=True)
    weights = content["state_dict"]
if is_used:
    total = sum(float(tensor.sum()) for tensor in weights.values() if tensor.is_floating_point())
print(json.dumps({"wall_s": time.perf_counter() - start, "peak_mb": status("VmHWM") - before}))
"""
INSPECT = """
import sys, time
from freqfusion_runtime.commands.cli import main
status = main(["inspect", sys.argv[1]])
print("torch" in sys.modules, status, file=sys.stderr)
"""


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the files are kept")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help="append the lines here as well")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = large_checkpoint(args.folder)
    lines = [reading(checkpoint, is_used, args.rounds) for is_used in (False, True)]
    lines += [inspection(file, args.rounds) for file in [checkpoint, *small_files(args.folder)]]
    from freqfusion_export.bench.timing import machine

    for line in lines:
        text = json.dumps({**line, **machine(0)})
        print(text, flush=True)
        if args.results:
            with args.results.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def large_checkpoint(folder: Path) -> Path:
    """Writes a checkpoint as mm does, of about 400 MB."""
    path = folder / "large.pth"
    if not path.is_file():
        import torch
        from freqfusion import create_model

        weights = create_model(MODEL).state_dict()
        momentum = {i: {"momentum_buffer": torch.rand_like(w.float())} for i, w in enumerate(weights.values())}
        groups = [{"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4, "params": list(momentum)}]
        meta = {"epoch": 12, "iter": 87960, "config": "model = dict(test_cfg=dict())", "CLASSES": ("a", "b")}
        torch.save(
            {"meta": meta, "state_dict": weights, "optimizer": {"state": momentum, "param_groups": groups}}, path
        )
    return path


def small_files(folder: Path) -> list[Path]:
    """Writes the demo checkpoint in each other form that is inspected."""
    import numpy as np
    import torch
    from freqfusion import demo_checkpoint, load_model
    from freqfusion_export import export

    network, name, checkpoint = load_model(demo_checkpoint())
    onnx, plan = folder / "demo.onnx", folder / "engine.plan"
    if not onnx.is_file():
        export(network, onnx, name=name, checkpoint=checkpoint, checkpoint_path=demo_checkpoint())
    plan.write_bytes(b"ftrt" + bytes(1000))  # described by how it begins and what lies beside it; never loaded
    weights = {name: tensor.numpy() for name, tensor in checkpoint.state_dict.items()}
    (folder / "demo.pkl").write_bytes(pickle.dumps({"model": {n: np.array(w) for n, w in weights.items()}}))
    torch.save({"state_dict": dict(checkpoint.state_dict)}, folder / "demo.pth")
    return [onnx, plan, folder / "demo.pth", folder / "demo.pkl", demo_checkpoint()]


def reading(path: Path, is_used: bool, rounds: int) -> dict[str, Any]:
    """Compares the two readers."""
    use = "used" if is_used else "read"
    found: dict[str, list[dict[str, float]]] = {"ours": [], "torch.load": []}
    for index in range(rounds + 1):
        for reader in found if index % 2 else reversed(found):
            done = subprocess.run(
                [sys.executable, "-c", READ, str(path), reader, use], capture_output=True, text=True, check=True
            )
            if index:  # the first round brings the file into the system's memory
                found[reader].append(json.loads(done.stdout))
    pairs = list(zip(found["ours"], found["torch.load"], strict=True))
    size_mb = path.stat().st_size / 2**20
    return {
        "what": f"reading, weights {use}",
        "size_mb": round(size_mb),
        "wall_ms": {reader: _median(run["wall_s"] * 1e3 for run in runs) for reader, runs in found.items()},
        "wall_ratio": _median(ours["wall_s"] / theirs["wall_s"] for ours, theirs in pairs),
        "peak_per_size": {reader: _median(r["peak_mb"] / size_mb for r in runs) for reader, runs in found.items()},
        "rounds": rounds,
    }


def inspection(path: Path, rounds: int) -> dict[str, Any]:
    """Times `freqfusion inspect`, and says whether it imported PyTorch."""
    walls, cpus = [], []
    for _ in range(rounds):
        start, before = time.perf_counter(), _cpu_s()
        done = subprocess.run([sys.executable, "-c", INSPECT, str(path)], capture_output=True, text=True, check=True)
        walls.append(time.perf_counter() - start)
        cpus.append(_cpu_s() - before)
    imported, status = done.stderr.split()[-2:]
    if status != "0":
        raise SystemExit(f"inspect {path} ended with {status}: {done.stderr}")
    return {
        "what": f"inspect {path.name}",
        "size_mb": round(path.stat().st_size / 2**20, 1),
        "wall_s": _median(walls),
        "cpu_s": _median(cpus),
        "imports_torch": imported == "True",
        "rounds": rounds,
    }


def _cpu_s() -> float:
    """Seconds of processor that ended children took: unlike the clock's, hardly more on a busy machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _median(values: Any) -> float:
    return round(statistics.median(values), 3)


if __name__ == "__main__":
    main()
