# SPDX-License-Identifier: Apache-2.0
"""Say what an ONNX file, a plan, a checkpoint or reference data holds: tensors, operators, profiles, manifest, hashes.

FreqFusion's own operators are marked with a star. A plan is described without being loaded. Only a checkpoint needs
PyTorch.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json

if TYPE_CHECKING:
    from freqfusion.checkpoint_files.weights import Choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help=".onnx, .plan, .npz, or a checkpoint, of any suffix or a folder"
    )
    parser.add_argument("--weights", choices=("model", "ema"), help="of a checkpoint with both, as for `export`")
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_runtime.agreement.reference_data import SUFFIX
    from freqfusion_runtime.commands.inspection import inspect_onnx, inspect_plan, inspect_reference
    from freqfusion_runtime.sessions.protocol import PLAN_SUFFIXES

    if args.file.suffix == ".onnx":
        facts, lines = inspect_onnx(args.file)
    elif args.file.suffix in PLAN_SUFFIXES:
        facts, lines = inspect_plan(args.file)
    elif args.file.suffix == SUFFIX:
        facts, lines = inspect_reference(args.file)
    else:
        facts, lines = _inspect_checkpoint(args.file, args.weights)
    say = printer(args.json)
    for line in lines:
        say(line)
    write_json(args.json, facts)
    return 0


def _inspect_checkpoint(path: Path, which: Choice | None) -> tuple[dict[str, Any], list[str]]:
    from freqfusion import UnknownModelError, read_checkpoint, recognize_model
    from freqfusion.checkpoint_files.formats import files_of

    from freqfusion_export.commands.settings import setting_facts, settings_table
    from freqfusion_export.networks.checkpoint_hash import checkpoint_sha256

    checkpoint = read_checkpoint(path, which)
    tensors = checkpoint.state_dict
    try:
        name, num_classes = recognize_model(tensors)
        model, problem = f"{name} with {num_classes} classes", ""
    except UnknownModelError as e:
        name, model, problem = None, "no known model", str(e)
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    ours = sorted({key.partition(".freqfusions.")[0] for key in tensors if ".freqfusions." in key})
    sha256 = checkpoint_sha256(path)
    size_bytes = sum(file.stat().st_size for file in files_of(path))
    values = sum(tensor.numel() for tensor in tensors.values())
    facts = {
        "kind": "checkpoint",
        "path": str(path),
        "size_bytes": size_bytes,
        "sha256": sha256,
        "model": name,
        "problem": problem,
        "entries": len(tensors),
        "values": values,
        "dtypes": dict(dtypes),
        "weights": checkpoint.weights,
        "classes": checkpoint.classes,
        "palette": checkpoint.palette,
        "image_size": checkpoint.image_size,
        "settings": setting_facts(checkpoint.settings),
        "notes": checkpoint.notes,
        "tensors": {key: list(tensor.shape) for key, tensor in tensors.items()},
    }
    lines = [
        f"{path}: checkpoint of {model}, {size_bytes / 1e6:.1f} MB",
        f"  {len(tensors)} entries, {values} values: {', '.join(f'{n} {dtype}' for dtype, n in dtypes.most_common())}",
        *([f"  {problem}"] if problem else []),
        *[f"  * FreqFusion modules in {place}" for place in ours],
        f"  classes: {len(checkpoint.classes) if checkpoint.classes else 'not named'}, "
        f"palette: {'yes' if checkpoint.palette else 'no'}, test size: {checkpoint.image_size or 'not given'}, "
        f"weights: {checkpoint.weights}",
        *[f"  {note}" for note in checkpoint.notes],
        f"  sha256 {sha256}",
        *[f"  {line}" for line in settings_table(checkpoint.settings)],
    ]
    return facts, lines
