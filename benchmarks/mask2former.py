# SPDX-License-Identifier: Apache-2.0
"""Times Mask2Former, Swin-B + FreqFusion, beside its bilinear twin, PyTorch and transformers' file, interleaved.

    python benchmarks/mask2former.py --folder DIR [--peer peer.onnx] --results benchmarks/results/mask2former.jsonl

`benchmarks/mask2former_peer.py` writes the peer's file. Weights are made up. Files found in DIR are used again;
exporting two networks takes minutes. Peaks of memory are of processes of their own, which open files as users do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from freqfusion_export.bench import mask2former
from freqfusion_export.bench import timing as bench

WANTED = {  # issue 14
    "kernels_to_peer": 1.0,
    "kernels_to_eager": 0.4,
    "kernels_to_twin": 1.05,
    "picture_to_labels_to_network": 1.08,
}


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the exported files are kept")
    parser.add_argument("--peer", type=Path, help="its ONNX file, of the size that is timed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=mask2former.SIZE, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--memory-size", type=int, nargs=2, default=(1280, 2560), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--only-files", action="store_true", help="make the files and stop")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    entries = mask2former.make_entries(args.folder, *args.size)
    if args.only_files:
        return
    if args.peer is not None:
        entries.append(bench.Entry(mask2former.PEER, "onnx", str(args.peer), (1, 3, *args.size)))
    times = bench.time_interleaved(entries, args.threads, args.rounds)
    peaks = {entry.name: bench.peak_memory_mb(entry, args.threads) for entry in entries}
    large = {
        entry.name: bench.peak_memory_mb(entry, args.threads)
        for entry in mask2former.make_entries(args.folder, *args.memory_size)
        if entry.kind == "onnx-kernels"
    }
    records = [bench.record(entry, times[entry.name], peaks[entry.name]) for entry in entries]
    ratios = bench.ratios(records, mask2former.PAIRS)
    kernels = [entry for entry in entries if entry.name == mask2former.KERNELS]
    shares = bench.operator_share(kernels[0], args.threads, args.folder) if kernels else {}
    facts = {
        "model": mask2former.MODEL,
        **bench.machine(args.threads),
        "memory_size": args.memory_size,
        "large_peak_mb": large,
        "operator_share": shares,
        "ratios": ratios,
    }
    for record in records:
        name = record["entry"]
        at_large = f"{large[name]:6.0f} MB at {args.memory_size}" if name in large else ""
        print(f"{name:<40} {record['p50_ms']:9.1f} ms  {record['peak_mb']:7.0f} MB {at_large}")
    for name, ratio in ratios.items():
        print(f"{name:<40} {ratio:9.3f}  wanted: {WANTED.get(name)}")
    print({name: f"{share:.1%}" for name, share in shares.items()})
    if args.results:
        with args.results.open("a") as file:
            file.writelines(json.dumps({**record, **facts}) + "\n" for record in records)


if __name__ == "__main__":
    main()
