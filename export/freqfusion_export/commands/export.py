# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint as one portable ONNX file, and check the file against PyTorch.

The file runs anywhere on standard operators and faster where this project's kernels are present. It is kept only if
ONNX Runtime computes from it what PyTorch computes; its manifest lies beside it as NAME.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.json_output import add_json_argument, printer, write_json

if TYPE_CHECKING:
    from freqfusion_runtime.manifest import Manifest

    from freqfusion_export.precision.calibration import Calibration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="official-layout .pth, .pt, .pkl or .safetensors file")
    parser.add_argument("--model", help="the model's name; recognised from the checkpoint's keys if not given")
    parser.add_argument("--output", type=Path, help="the file to write; the checkpoint's name with .onnx if not given")
    parser.add_argument(
        "--interface",
        choices=("image", "tensor"),
        default="image",
        help="image: uint8 picture in, label map out; tensor: normalised tensor in, logits out",
    )
    parser.add_argument("--bases-seed", type=int, default=0, help="seed of the head's factorisation bases")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="type that is written into the file; parts that would lose stay in fp32 and are listed",
    )
    parser.add_argument(
        "--keep-fp32",
        action="append",
        default=[],
        metavar="PATTERN",
        help="keep nodes, modules or stages of this name in fp32, * as in file names; may be given several times",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FOLDER", help="pictures to look for values out of range with"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion import load_model
    from freqfusion_runtime.files import sha256_of

    from freqfusion_export.exporter import export
    from freqfusion_export.precision.calibration import read_calibration

    say = printer(args.json)
    start = time.perf_counter()
    output = args.output or args.checkpoint.with_suffix(".onnx")
    calibration = None if args.calibration is None else read_calibration(args.calibration)
    model, name, checkpoint = load_model(args.checkpoint, args.model, bases_seed=args.bases_seed)
    say(f"{args.checkpoint}: {name}, {len(checkpoint.state_dict)} entries, {checkpoint.weights} weights")
    manifest = export(
        model,
        output,
        name=name,
        interface=args.interface,
        checkpoint=checkpoint,
        checkpoint_path=args.checkpoint,
        precision=args.precision,
        keep_fp32=args.keep_fp32,
        calibration=calibration,
    )
    seconds = time.perf_counter() - start
    nodes = ", ".join(f"{count} {operator}" for operator, count in manifest.operators.items())
    size_mb = output.stat().st_size / 1e6
    say(f"{output}: {size_mb:.1f} MB, {args.interface} interface, FreqFusion nodes: {nodes}")
    if args.precision != "fp32":
        _print_precision(manifest, calibration, say)
    say(f"checked against PyTorch on ONNX Runtime; {seconds:.0f} s in all")
    facts: dict[str, Any] = {"path": str(output), "sha256": sha256_of(output), "size_mb": size_mb}
    facts["export_s"] = seconds
    facts |= {"model": name, "interface": args.interface, "operators": manifest.operators}
    facts |= {"precision": manifest.precision, "islands": [asdict(island) for island in manifest.islands]}
    if calibration is not None:
        facts["calibration"] = {
            "pictures": len(calibration.pictures),
            "sha256": calibration.sha256,
            "skipped": [{"picture": picture, "reason": reason} for picture, reason in calibration.skipped],
        }
    write_json(args.json, facts)
    return 0


def _print_precision(manifest: Manifest, calibration: Calibration | None, say: Callable[[str], None]) -> None:
    if calibration is not None:
        say(f"calibrated on {len(calibration.pictures)} pictures of {calibration.folder}")
        for picture, reason in calibration.skipped:
            say(f"  skipped {picture}: {reason}")
    say(f"{manifest.precision}, kept in fp32:")
    for island in manifest.islands:
        say(f"  {island.name:<26} {island.nodes:>4} nodes  {island.reason}")
        for finding in island.found:
            say(f"    {finding}")
