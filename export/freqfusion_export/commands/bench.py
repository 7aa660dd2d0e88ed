# SPDX-License-Identifier: Apache-2.0
"""Time a network with FreqFusion beside the naive form, OpenVINO and its bilinear twin.

All forms run in turn in one process, so that a busy machine slows them alike: trust the ratios, not the milliseconds.
Peak memory is taken in a process per form. Appends one JSON line per form with --results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from freqfusion_runtime.commands.arguments import positive
from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json

MODELS = ("segnext_t", "mask2former_swin_b")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
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
    facts = {**bench.machine(args.threads), "operator_share": shares}
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


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"a size looks like 512x512, got {text!r}") from e
    if height <= 0 or width <= 0 or height % 32 or width % 32:
        raise argparse.ArgumentTypeError(f"both sides must be positive multiples of 32, got {text!r}")
    return height, width
