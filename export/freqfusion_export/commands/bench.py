# SPDX-License-Identifier: Apache-2.0
"""Time a network with FreqFusion beside the naive form, OpenVINO and its bilinear twin.

All forms run in turn in one process, so that a busy machine slows them alike: trust the ratios, not the milliseconds.
Peak memory is taken in a process per form. Appends one JSON line per form with --results.

A file of a network of one's own is timed instead where it is named: on function bodies, with kernels, and, where
--network names its code, beside PyTorch and torch's plain export of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from freqfusion_runtime.commands.arguments import positive
from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json

from freqfusion_export.commands.own_network import add_network_argument, open_network
from freqfusion_export.errors import ExportError

MODELS = ("segnext_t", "mask2former_swin_b")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="MODEL.onnx", help="time a file of a network of one's own instead"
    )
    group = add_network_argument(parser)
    group.add_argument("--checkpoint", type=Path, metavar="FILE", help="its weights")
    parser.add_argument(
        "--model", choices=MODELS, default=MODELS[0], help="mask2former_swin_b takes some minutes and 12 GB"
    )
    parser.add_argument("--size", type=_size, metavar="HxW", help="multiples of 32; by default the model's usual size")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="cores for each form")
    parser.add_argument("--rounds", type=positive, default=20, metavar="N", help="runs of each form")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory measurement out")
    parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help="append a line per form there")
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_runtime.files import json_text, scratch_folder
    from tqdm import tqdm

    from freqfusion_export.bench import mask2former, segnext
    from freqfusion_export.bench import timing as bench

    compared = {"segnext_t": segnext, "mask2former_swin_b": mask2former}[args.model]
    say = printer(args.json)
    if args.file is not None:
        return _bench_network(args, say)
    if args.network is not None:
        raise ExportError("--network is about a file of one's own network; name that too, or leave it out")
    with scratch_folder("bench") as folder:
        say("exporting every form ...")
        entries = compared.make_entries(folder, *(args.size or compared.SIZE))
        with tqdm(total=args.rounds, unit="round", desc="timing") as progress:
            times = bench.time_interleaved(entries, args.threads, args.rounds, progress.update)
        records = []
        for entry in tqdm(entries, unit="form", desc="memory", disable=args.no_memory):
            peak = None if args.no_memory else bench.peak_memory_mb(entry, args.threads)
            records.append(bench.record(entry, times[entry.name], peak))
        kernels = [entry for entry in entries if entry.kind == "onnx-kernels" and not entry.is_picture]
        shares = bench.operator_share(kernels[0], args.threads, folder) if kernels else {}
    facts = {"model": args.model, **bench.machine(args.threads), "operator_share": shares}
    ratios = bench.ratios(records, compared.PAIRS)
    say(f"\n{'form':<38} {'p50 ms':>8} {'p99 ms':>8} {'to naive':>9} {'peak MB':>8}")
    base = next(r["p50_ms"] for r in records if r["entry"] == compared.BASELINE)
    for r in sorted(records, key=lambda r: r["p50_ms"]):
        memory = "" if r["peak_mb"] is None else f"{r['peak_mb']:8.0f}"
        say(f"{r['entry']:<38} {r['p50_ms']:8.1f} {r['p99_ms']:8.1f} {r['p50_ms'] / base:8.2f}x {memory}")
    for name, ratio in ratios.items():
        say(f"{name:<38} {ratio:.2f}x")
    if shares:
        say(f"{'FreqFusion operators':<38} {sum(shares.values()):.1%} of all kernels' time")
    if args.results is not None:
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with args.results.open("a") as file:
            file.writelines(json_text({**r, **facts, "ratios": ratios}) + "\n" for r in records)
    write_json(args.json, {**facts, "entries": records, "ratios": ratios})
    return 0


def _bench_network(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    import numpy as np
    from freqfusion_runtime.files import json_text, scratch_folder
    from freqfusion_runtime.model_files.external_data import model_sha256

    from freqfusion_export.bench import own_network as bench
    from freqfusion_export.bench.timing import machine, time_in_turn
    from freqfusion_export.parity.segmenter_parity import read_manifest

    manifest = read_manifest(args.file)
    if manifest.task != "network":
        raise ExportError(
            f"{args.file} is made for {manifest.task}, and networks of arrays are timed so. Leave the file out to "
            "time ours"
        )
    tensors = bench.example_tensors(manifest)
    with scratch_folder("bench") as folder:
        runs = bench.runs_of_file(args.file, tensors, args.threads)
        if args.network is not None:
            network, _ = open_network(args.network, args.checkpoint, say)
            runs |= bench.runs_of_module(network, tensors, folder, args.threads)
        times = time_in_turn(runs, args.rounds)
    records: list[dict[str, Any]] = [
        {"entry": name, "p50_ms": float(np.percentile(ms, 50)), "p99_ms": float(np.percentile(ms, 99)), "runs": len(ms)}
        for name, ms in times.items()
    ]
    facts = {**machine(args.threads), "model": manifest.model, "onnx_sha256": model_sha256(args.file)}
    facts["input_shapes"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    baseline = bench.PLAIN if bench.PLAIN in times else next(iter(times))
    base = next(record["p50_ms"] for record in records if record["entry"] == baseline)
    say(f"{'form':<34} {'p50 ms':>8} {'p99 ms':>8}  to {baseline}")
    for record in records:
        ratio = record["p50_ms"] / base
        say(f"{record['entry']:<34} {record['p50_ms']:8.1f} {record['p99_ms']:8.1f} {ratio:7.2f}x")
    ratios = {record["entry"]: record["p50_ms"] / base for record in records}
    if args.results is not None:
        args.results.parent.mkdir(parents=True, exist_ok=True)
        with args.results.open("a") as file:
            file.writelines(json_text({**record, **facts, "ratios": ratios}) + "\n" for record in records)
    write_json(args.json, {**facts, "entries": records, "baseline": baseline, "ratios": ratios})
    return 0


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"a size looks like 512x512, got {text!r}") from e
    if height <= 0 or width <= 0 or height % 32 or width % 32:
        raise argparse.ArgumentTypeError(f"both sides must be positive multiples of 32, got {text!r}")
    return height, width
