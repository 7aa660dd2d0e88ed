# SPDX-License-Identifier: Apache-2.0
"""Write a file of standard operators alone, for tools that read no functions and no domains of others.

    freqfusion inline net.onnx -o plain.onnx
    freqfusion inline net.onnx -o fixed.onnx --shape images=1x3x512x512 --opset 17

MODEL is an exported .onnx file. The result is compared with it on made-up inputs before it is kept, and has the same
manifest. Our kernels cannot run in it: it is for readers that could not use them anyway. docs/consumers.md says which
tools want what. Needs onnx and ONNX Runtime, not PyTorch.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json

if TYPE_CHECKING:
    from freqfusion_runtime.model_files.plain.sizes import Shape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="an .onnx file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PLAIN", help="the .onnx file to write")
    add_form_arguments(parser)
    add_json_argument(parser)


def add_form_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the options that say in which form a plain file is written."""
    parser.add_argument(
        "--shape",
        type=_shape,
        action="append",
        default=[],
        metavar="NAME=SIDES",
        help="fix the sides of an input, as images=1x3x512x512; a name among them stays free; what is constant then is "
        "computed",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="an older version of the standard operators, from 13")
    parser.add_argument("--ir-version", type=int, metavar="N", help="an older version of the file's format, from 4")


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_runtime.building.plain_file import write_plain_file

    written = write_plain_file(
        args.model, args.output, shapes=dict(args.shape), opset=args.opset, ir_version=args.ir_version
    )
    say = printer(args.json)
    say(f"written: {written.path}, {written.nodes} nodes, opset {written.opset}, IR version {written.ir_version}")
    for entry in written.comparisons:
        say(f"  {entry.name}: off by {entry.max_over_std:.1e} deviations at most")
    write_json(
        args.json,
        {
            "path": str(written.path),
            "nodes": written.nodes,
            "opset": written.opset,
            "ir_version": written.ir_version,
            "comparisons": [asdict(entry) for entry in written.comparisons],
        },
    )
    return 0


def _shape(text: str) -> tuple[str, Shape]:
    from freqfusion_runtime.model_files.plain.sizes import parse_shape

    try:
        return parse_shape(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
