# SPDX-License-Identifier: Apache-2.0
"""Times Mask R-CNN R50 + FreqFusion beside its twin with a classic pyramid and beside PyTorch, interleaved.

    python benchmarks/detectors.py --folder DIR --results benchmarks/results/detectors.jsonl

Weights are those of the goldens (tests/data/mmdet), with which there are a thousand proposals and a hundred detections.
Files found in DIR are used again; exporting two networks takes minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from freqfusion import create_model, native
from freqfusion_export import export
from freqfusion_export.bench import timing as bench
from freqfusion_runtime.sessions.kernel_library import library_path

MODEL, TWIN = "mask_rcnn_r50", "mask_rcnn_r50_nearest"
GENERATOR = Path(__file__).parents[1] / "tests" / "data" / "mmdet" / "weights_spec.py"
EAGER, TWIN_ENTRY = "PyTorch eager, unfold", "nearest twin"
TWIN_KERNELS = "nearest twin, kernels"  # of detectors, which the twin has too
KERNELS = "ours, kernels"
RATIOS = {  # name -> form, base, what issue 5 asks for
    "kernels_to_nearest_twin": (KERNELS, TWIN_KERNELS, 1.15),
    "kernels_to_eager": (KERNELS, EAGER, 0.4),
    "bodies_to_nearest_twin": ("ours, function bodies", TWIN_ENTRY, None),
    "kernels_to_eager_kernels": (KERNELS, "PyTorch eager, kernels", None),
}


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the exported files are kept")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--memory-size", type=int, nargs=2, default=(832, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--only-files", action="store_true", help="make the files and stop")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    entries = make_entries(args.folder, tuple(args.size))
    if args.only_files:
        return
    times = bench.time_interleaved(entries, args.threads, args.rounds)
    large = make_entries(args.folder, tuple(args.memory_size))
    peaks = {e.name: bench.peak_memory_mb(e, args.threads) for e in large if e.kind.startswith("onnx")}
    records = [bench.record(entry, times[entry.name], peaks.get(entry.name)) for entry in entries]
    p50 = {record["entry"]: record["p50_ms"] for record in records}
    ratios = {name: p50[form] / p50[base] for name, (form, base, _) in RATIOS.items() if form in p50 and base in p50}
    kernels = [entry for entry in entries if entry.name == KERNELS]
    shares = bench.operator_share(kernels[0], args.threads, args.folder) if kernels else {}
    facts = {**bench.machine(args.threads), "memory_size": args.memory_size, "operator_share": shares, "ratios": ratios}
    for record in records:
        print(
            f"{record['entry']:<26} {record['p50_ms']:9.1f} ms  {record['peak_mb'] or 0:7.0f} MB at {args.memory_size}"
        )
    for name, ratio in ratios.items():
        print(f"{name:<26} {ratio:9.3f}  wanted: {RATIOS[name][2]}")
    print({name: f"{share:.1%}" for name, share in shares.items()})
    if args.results:
        with args.results.open("a") as file:
            file.writelines(json.dumps({**record, **facts}) + "\n" for record in records)


def make_entries(folder: Path, size: tuple[int, int]) -> list[bench.Entry]:
    """The forms compared; exports what is not in ``folder`` yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MODEL, TWIN):
        _make_files(folder, name)
    shape = (1, 3, *size)
    paths = {name: str(folder / f"{name}.onnx") for name in (MODEL, TWIN)}
    weights = str(folder / f"{MODEL}.pth")
    entries = [
        bench.Entry(EAGER, "eager", None, shape, model=MODEL, weights=weights),
        bench.Entry("ours, function bodies", "onnx", paths[MODEL], shape),
        bench.Entry(TWIN_ENTRY, "onnx", paths[TWIN], shape),
    ]
    if native.is_available():
        entries.append(
            bench.Entry("PyTorch eager, kernels", "eager-kernels", None, shape, model=MODEL, weights=weights)
        )
    if library_path().is_file():
        entries.append(bench.Entry(KERNELS, "onnx-kernels", paths[MODEL], shape))
        entries.append(bench.Entry(TWIN_KERNELS, "onnx-kernels", paths[TWIN], shape))
    return entries


def _make_files(folder: Path, name: str) -> None:
    path, weights = folder / f"{name}.onnx", folder / f"{name}.pth"
    if path.is_file() and weights.is_file():
        return
    network = _generator().load_into(create_model(name), 0)
    torch.save(network.state_dict(), weights)
    export(network, path, name=name, interface="tensor")


def _generator() -> Any:
    spec = importlib.util.spec_from_file_location("mmdet_weights_spec", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
