# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint as one portable ONNX file, and check the file against PyTorch.

The file runs anywhere on standard operators and faster where this project's kernels are present. It is kept only if
ONNX Runtime computes from it what PyTorch computes; its manifest lies beside it as NAME.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from freqfusion_runtime.json_output import add_json_argument, printer, write_json


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
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion import load_model
    from freqfusion_runtime.files import sha256_of

    from freqfusion_export.exporter import export

    say = printer(args.json)
    start = time.perf_counter()
    output = args.output or args.checkpoint.with_suffix(".onnx")
    model, name, checkpoint = load_model(args.checkpoint, args.model, bases_seed=args.bases_seed)
    say(f"{args.checkpoint}: {name}, {len(checkpoint.state_dict)} entries, {checkpoint.weights} weights")
    manifest = export(
        model,
        output,
        name=name,
        interface=args.interface,
        checkpoint=checkpoint,
        checkpoint_path=args.checkpoint,
    )
    seconds = time.perf_counter() - start
    nodes = ", ".join(f"{count} {operator}" for operator, count in manifest.operators.items())
    size_mb = output.stat().st_size / 1e6
    say(f"{output}: {size_mb:.1f} MB, {args.interface} interface, FreqFusion nodes: {nodes}")
    say(f"checked against PyTorch on ONNX Runtime; {seconds:.0f} s in all")
    facts = {"path": str(output), "sha256": sha256_of(output), "size_mb": size_mb, "export_s": seconds}
    write_json(args.json, {**facts, "model": name, "interface": args.interface, "operators": manifest.operators})
    return 0
