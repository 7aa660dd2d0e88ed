# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint as one portable ONNX file, and check the file against PyTorch.

The file runs anywhere on standard operators and faster where this project's kernels are present. It is kept only if
ONNX Runtime computes from it what PyTorch computes; its manifest lies beside it as NAME.json.

A network of one's own is named by the code that makes it: --network mypackage.models:build_unet --checkpoint unet.pt
--input images=1x3x512x512 --dynamic images=0:batch,2:height:32,3:width:32. That code is imported and run.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.inline import add_form_arguments
from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json

from freqfusion_export.commands.export_network import Write, prepare_network
from freqfusion_export.commands.own_network import (
    add_adoption_arguments,
    add_input_arguments,
    add_network_argument,
    refuse_network_arguments,
)
from freqfusion_export.commands.settings import add_setting_arguments, overrides_of, setting_facts, settings_table
from freqfusion_export.errors import ExportError

if TYPE_CHECKING:
    from freqfusion import Checkpoint
    from freqfusion_runtime.model_files.manifest import Manifest

    from freqfusion_export.precision.calibration import Calibration
    from freqfusion_export.precision.sensitivity import GroupLoss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        nargs="?",
        help="a file of weights of any suffix, or a folder of shards with an index",
    )
    parser.add_argument("--model", help="the model's name; recognised from the checkpoint's keys if not given")
    parser.add_argument("--output", type=Path, help="the file to write; the checkpoint's name with .onnx if not given")
    parser.add_argument(
        "--interface",
        choices=("image", "tensor"),
        help="image, the default: uint8 picture in, label map or boxes out; tensor: normalised tensor in, scores out",
    )
    parser.add_argument(
        "--suppression",
        choices=("standard", "unrolled"),
        default="standard",
        help="detectors: overlapping boxes by NonMaxSuppression, or by matrices, as TensorRT-RTX needs it",
    )
    parser.add_argument(
        "--roi-align",
        choices=("standard", "products"),
        default="standard",
        help="detectors: read boxes by RoiAlign, or by matrix products, as TensorRT-RTX needs it where no GPU is",
    )
    parser.add_argument(
        "--check-full-size",
        action="store_true",
        help="detectors: check the file on an image of the official size too, not on small ones alone",
    )
    parser.add_argument(
        "--external-data",
        action="store_true",
        help="keep the weights in a file beside the model, NAME.HASH.data, which must go where the model goes",
    )
    parser.add_argument(
        "--weights", choices=("model", "ema"), help="of a checkpoint with both: as trained, or running averages of them"
    )
    group = add_network_argument(parser)
    group.add_argument(
        "--checkpoint",
        dest="weights_of_network",
        type=Path,
        metavar="FILE",
        help="its weights; the factory's if not given",
    )
    add_adoption_arguments(group)
    add_input_arguments(group)
    parser.add_argument("--bases-seed", type=int, default=0, help="seed of the head's factorisation bases")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8", "fp8"),
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
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="typical pictures, or .npz of inputs: ranges for fp16 and bf16, scales for int8 and fp8",
    )
    parser.add_argument(
        "--calibrator",
        choices=("entropy", "percentile"),
        default="percentile",
        help="int8, fp8: cut ranges where the histogram loses least, or where 99.99 %% of the values are inside",
    )
    parser.add_argument(
        "--target",
        choices=("tensorrt", "onnxruntime"),
        default="tensorrt",
        help="int8: tensorrt: signed, inputs of layers; onnxruntime: unsigned with zero points, inputs and results",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="int8, fp8: labels that may differ from fp32's; the worst groups of layers stay in fp32 until it is met",
    )
    parser.add_argument(
        "--weight-bits", type=int, choices=(7, 8), default=8, help="int8: 7 for processors without VNNI"
    )
    parser.add_argument(
        "--functions",
        choices=("bodies", "inline"),
        default="bodies",
        help="inline: standard operators alone, for tools that read no functions; our kernels cannot run in it",
    )
    add_form_arguments(parser.add_argument_group("form of the file", "With --functions inline."))
    add_setting_arguments(parser)
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_runtime.model_files.external_data import external_files, model_sha256

    from freqfusion_export.precision.calibration import read_calibration
    from freqfusion_export.precision.eight_bits import Options

    say = printer(args.json)
    start = time.perf_counter()
    check_form(args)
    calibration = None if args.calibration is None else read_calibration(args.calibration)
    table: list[GroupLoss] = []
    options: dict[str, Any] = {
        "interface": args.interface,
        "precision": args.precision,
        "keep_fp32": args.keep_fp32,
        "calibration": calibration,
        "eight_bits": Options(args.calibrator, args.target, args.max_drop, args.weight_bits),
        "on_sensitivity": table.extend,
        "suppression": args.suppression,
        "roi_align": args.roi_align,
        "check_full_size": args.check_full_size,
        "external_data": args.external_data,
    }
    prepare = prepare_network if args.network else _prepare_ours
    output, write, checkpoint = prepare(args, options, say)
    manifest = write(output) if args.functions == "bodies" else _write_plain(args, write, output, say)
    seconds = time.perf_counter() - start
    nodes = ", ".join(f"{count} {operator}" for operator, count in manifest.operators.items()) or "none"
    beside = external_files(output)
    size_mb = sum(file.stat().st_size for file in (output, *beside)) / 1e6
    names = " with ".join([str(output), *(file.name for file in beside)])
    say(f"{names}: {size_mb:.1f} MB, {manifest.interface} interface, FreqFusion nodes: {nodes}")
    if args.precision != "fp32":
        _print_precision(manifest, calibration, say)
    if table:
        _print_sensitivity(table, say)
    say(f"checked against PyTorch on ONNX Runtime; {seconds:.0f} s in all")
    facts: dict[str, Any] = {"path": str(output), "sha256": model_sha256(output), "size_mb": size_mb}
    facts["external_files"] = [str(file) for file in beside]
    facts["export_s"] = seconds
    facts["notes"] = checkpoint.notes if checkpoint else ()
    facts |= {"model": manifest.model, "interface": manifest.interface, "operators": manifest.operators}
    facts |= {"precision": manifest.precision, "islands": [asdict(island) for island in manifest.islands]}
    facts["settings"] = setting_facts(checkpoint.settings) if checkpoint else []
    if table:
        facts["sensitivity"] = [asdict(line) for line in table]
    if calibration is not None:
        facts["calibration"] = {
            "pictures": len(calibration.pictures),
            "sha256": calibration.sha256,
            "skipped": [{"picture": picture, "reason": reason} for picture, reason in calibration.skipped],
        }
    write_json(args.json, facts)
    return 0


def _prepare_ours(
    args: argparse.Namespace, options: dict[str, Any], say: Callable[[str], None]
) -> tuple[Path, Write, Checkpoint]:
    from freqfusion import load_model

    from freqfusion_export.exporter import export

    refuse_network_arguments(args)
    path = args.checkpoint or args.weights_of_network
    if path is None:
        raise ExportError(
            "there is nothing to export; name a checkpoint of ours, or a network of one's own (--network)"
        )
    output = args.output or path.with_suffix(".onnx")
    model, name, checkpoint = load_model(
        path, args.model, overrides_of(args), which=args.weights, bases_seed=args.bases_seed
    )
    say(f"{path}: {name}, {len(checkpoint.state_dict)} entries, {checkpoint.weights} weights")
    for note in checkpoint.notes:
        say(f"  {note}")
    for line in settings_table(checkpoint.settings):
        say(line)
    write = functools.partial(export, model, name=name, checkpoint=checkpoint, checkpoint_path=path, **options)
    return output, write, checkpoint


def check_form(args: argparse.Namespace) -> None:
    """Refuses options of plain files where none is written.

    Raises:
        ExportError: If one was given.
    """
    given = {"--shape": args.shape, "--opset": args.opset, "--ir-version": args.ir_version}
    names = [name for name, value in given.items() if value]
    if names and args.functions != "inline":
        raise ExportError(f"{names[0]} is about files of standard operators alone. Add --functions inline.")


def _write_plain(args: argparse.Namespace, write: Write, output: Path, say: Callable[[str], None]) -> Manifest:
    """Exports into a folder of its own, and writes that file plainly."""
    from freqfusion_runtime.building.plain_file import write_plain_file
    from freqfusion_runtime.files import make_folder, scratch_folder

    make_folder(output.parent)
    with scratch_folder("inline") as folder:
        exported = folder / output.name
        write(exported)
        form = {"shapes": dict(args.shape), "opset": args.opset, "ir_version": args.ir_version}
        written = write_plain_file(exported, output, **form)
    say(f"{output}: {written.nodes} nodes, opset {written.opset}, IR version {written.ir_version}")
    assert written.manifest is not None  # the file was exported here
    return written.manifest


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


def _print_sensitivity(table: Sequence[GroupLoss], say: Callable[[str], None]) -> None:
    say("in 8 bits alone, against fp32 on calibration pictures:")
    say(f"  {'group':<32} {'layers':>6} {'labels lost':>11} {'mIoU lost':>9}")
    for line in table:
        mark = "  kept in fp32" if line.is_kept else ""
        say(f"  {line.group:<32} {line.layers:>6} {line.label_drop:>11.2%} {_miou(line)}{mark}")


def _miou(line: GroupLoss) -> str:
    return f"{'-':>9}" if line.miou_drop is None else f"{line.miou_drop:9.4f}"
