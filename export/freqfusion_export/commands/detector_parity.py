# SPDX-License-Identifier: Apache-2.0
"""The part of `freqfusion parity` that compares models which find objects."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from freqfusion_runtime.commands.json_output import printer, write_json

from freqfusion_export.commands.parity_table import HEADER, row

if TYPE_CHECKING:
    from freqfusion_runtime.model_files.manifest import Manifest
    from freqfusion_runtime.sessions.protocol import OperatorPath

    from freqfusion_export.parity.detector_parity import ObjectParity


def compare_detectors(
    args: argparse.Namespace,
    manifest: Manifest,
    pictures: Sequence[Path],
    names: Mapping[Path, str],
    paths: Sequence[OperatorPath],
) -> int:
    """Runs the command on a model that finds objects; returns the exit status."""
    from freqfusion import load_model
    from freqfusion.detection import Detector
    from freqfusion_runtime.files import atomic_path
    from freqfusion_runtime.model_files.external_data import model_sha256

    from freqfusion_export.commands.parity_reference import run_reference
    from freqfusion_export.errors import ExportError
    from freqfusion_export.parity.detector_parity import DetectorParity
    from freqfusion_export.parity.object_differences import draw_object_differences

    say = printer(args.json)
    network, _, checkpoint = load_model(args.checkpoint, manifest.model, which=args.weights, **manifest.network)
    for note in checkpoint.notes:
        say(f"{args.checkpoint}: {note}")
    parity = DetectorParity(args.model, cast(Detector, network), args.kernels, args.layers, args.threads)
    by_path = {path: sum(p.path == path for p in paths) for path in ("kernel", "function body")}
    if manifest.precision in ("fp16", "bf16"):
        say(f"{args.model}: {manifest.precision}, computed in fp32 with every rounding that the file asks for")
    else:
        say(f"{args.model}: FreqFusion nodes by kernel: {by_path['kernel']}, by body: {by_path['function body']}")
    entries, has_objects = [], False
    for picture in pictures:
        result = parity.objects_on(picture)
        has_objects |= not result.is_empty
        _print(result, say)
        entries.append(_entry(result))
        if args.output is not None:
            name = args.output / f"{names[picture]}.differences.png"
            with atomic_path(name) as temporary:
                draw_object_differences(result.actual, result.expected, result.objects).save(temporary)
            say(f"differences: {name}")
    agrees = all(entry["agrees"] for entry in entries)
    if agrees and not has_objects:
        raise ExportError(
            f"neither {args.model} nor its checkpoint finds an object in any of {len(pictures)} pictures, so no box, "
            "score or mask was compared. Name pictures with objects that the model knows"
        )
    say("PARITY HOLDS" if agrees else "PARITY BROKEN")
    facts: dict[str, Any] = {
        "model": str(args.model),
        "model_sha256": model_sha256(args.model),
        "operator_paths": by_path,
    }
    facts |= run_reference(args, network, manifest, pictures, say)
    write_json(args.json, {**facts, "agrees": agrees, "pictures": entries})
    return 0 if agrees else 1


def _entry(result: ObjectParity) -> dict[str, Any]:
    objects = result.objects
    return {
        "picture": result.name,
        "agrees": result.agrees,
        "objects": objects.counts[0],
        "objects_expected": objects.counts[1],
        "object_pairs": len(objects.pairs),
        "object_agreement": objects.share,
        "min_box_iou": objects.min_box_iou,
        "max_score_difference": objects.max_score_difference,
        "mean_score_difference": objects.mean_score_difference,
        "mean_mask_iou": objects.mean_mask_iou,
        "min_mask_iou": objects.min_mask_iou,
        "panoptic_quality": result.panoptic,
        "comparisons": [{**asdict(c), "agrees": c.agrees} for c in result.comparisons],
    }


def _print(result: ObjectParity, say: Callable[[str], None]) -> None:
    say(f"\n{result.name}")
    say(HEADER)
    for comparison in result.comparisons:
        say(row(comparison))
    objects = result.objects
    parts = [f"{len(objects.pairs)} pairs of {objects.counts[0]} and {objects.counts[1]} objects"]
    if objects.pairs:
        parts.append(f"box IoU from {objects.min_box_iou:.6f}, scores within {objects.max_score_difference:.1e}")
    if objects.mean_mask_iou is not None:
        parts.append(f"mask IoU {objects.mean_mask_iou:.6f}, from {objects.min_mask_iou:.6f}")
    if result.panoptic is not None:
        parts.append(f"panoptic quality between the maps {result.panoptic:.6f}")
    say(f"  {'task':<13} {'; '.join(parts)}")
    if (first := result.first_mismatch) is not None:
        say(f"  first beyond tolerance: {first.level} {first.name}, {first.max_over_std:.1e} > {first.tolerance:.0e}")
