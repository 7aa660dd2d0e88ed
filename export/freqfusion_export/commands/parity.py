# SPDX-License-Identifier: Apache-2.0
"""Compare an exported file with its PyTorch model: operators, modules, network, label maps or objects.

Exit status 1 if anything is beyond its tolerance; that of mIoU is for all pictures together, counted over the set
before anything is divided, as mIoU is published. --layers then names the first module that is. With --output writes
NAME.differences.png for each picture: where the two label maps, masks or panoptic maps differ, and which objects only
one of them finds. --bisect looks for the smallest set of nodes that must be in fp32 for a half-typed file to hold, and
names the export options for it. --noise-floor tells what PyTorch differs from itself by, --save-reference writes what
it computes for machines that build engines without it. Where mmcv and a CUDA device are there, mmcv's CARAFE is another
reference.

A network of one's own is compared on arrays: --network names the code that makes it, and each PHOTO is a NAME.npz.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.arguments import not_negative
from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json

from freqfusion_export.commands.own_network import (
    add_adoption_arguments,
    add_network_argument,
    adopt_network,
    open_network,
)
from freqfusion_export.commands.parity_reference import add_reference_arguments, run_reference
from freqfusion_export.commands.parity_table import HEADER, row
from freqfusion_export.errors import ExportError

if TYPE_CHECKING:
    from freqfusion_runtime.model_files.manifest import Manifest

    from freqfusion_export.parity.segmenter_parity import PictureParity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="a file written by `freqfusion export`")
    parser.add_argument(
        "pictures", type=Path, nargs="+", metavar="PHOTO", help="picture files, or folders of them; .npz of inputs"
    )
    parser.add_argument("--checkpoint", type=Path, help="what the file was exported from; with --network its weights")
    add_adoption_arguments(add_network_argument(parser))
    parser.add_argument(
        "--weights", choices=("model", "ema"), help="as for `export`; those that the file was made of if not given"
    )
    parser.add_argument("--layers", action="store_true", help="compare every module's result, not only FreqFusion's")
    parser.add_argument(
        "--bisect", action="store_true", help="fp16, bf16: if parity is broken, find the nodes to keep in fp32"
    )
    parser.add_argument(
        "--kernels", choices=("auto", "never", "require"), default="auto", help="native kernels, as for `run`"
    )
    add_reference_arguments(parser)
    parser.add_argument("--threads", type=not_negative, default=0, metavar="N", help="cores to use, 0 for all")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for pictures of the differences")
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion import load_model
    from freqfusion_runtime.files import atomic_path
    from freqfusion_runtime.model_files.external_data import model_sha256
    from freqfusion_runtime.pictures.reading import find_pictures
    from freqfusion_runtime.predictors.opening import open_session
    from freqfusion_runtime.results.result_names import check_pictures_stay, result_names

    from freqfusion_export.commands.precision_bisection import bisect, conclude, refuse_unless_half
    from freqfusion_export.networks.manifests import taken_of
    from freqfusion_export.parity.difference_picture import draw_differences
    from freqfusion_export.parity.segmenter_parity import Parity, miou_of_set, read_manifest

    say = printer(args.json)
    manifest = read_manifest(args.model)
    if args.checkpoint is None and args.network is None:
        raise ExportError(
            "there is nothing to compare with; name what the file was exported from, with --checkpoint, or the code of "
            "a network of one's own, with --network"
        )
    if manifest.task == "network":
        return _compare_networks(args, manifest)
    pictures = find_pictures(args.pictures)
    names = {} if args.output is None else result_names(pictures)
    if args.output is not None:
        check_pictures_stay(args.pictures, names, args.output)
    args.weights = args.weights or taken_of(manifest)
    if args.bisect:
        refuse_unless_half(args.model, manifest.precision, manifest.task, manifest.operators)
    is_half = manifest.precision in ("fp16", "bf16")
    # ONNX Runtime does not open a bf16 file on a CPU; both half types are emulated below.
    paths = () if is_half else open_session(args.model, kernels=args.kernels).operator_paths
    _check_weights(args, manifest)
    if manifest.task != "semantic_segmentation":
        from freqfusion_export.commands.detector_parity import compare_detectors

        return compare_detectors(args, manifest, pictures, names, paths)
    if args.network is not None:
        network, checkpoint = open_network(args.network, args.checkpoint, say, args.weights)
        adopt_network(network, None, args, say)
    else:
        network, _, checkpoint = load_model(
            args.checkpoint,
            manifest.model,
            which=args.weights,
            bases_seed=manifest.nmf_bases_seed or 0,
            **manifest.network,
        )
    for note in checkpoint.notes if checkpoint is not None else ():
        say(f"{args.checkpoint}: {note}")
    parity = Parity(args.model, network, args.kernels, args.layers, args.threads)
    by_path = {path: sum(p.path == path for p in paths) for path in ("kernel", "function body")}
    if is_half:
        say(f"{args.model}: {manifest.precision}, computed in fp32 with every rounding that the file asks for")
    else:
        say(f"{args.model}: FreqFusion nodes by kernel: {by_path['kernel']}, by body: {by_path['function body']}")
    results = []
    for picture in pictures:
        result = parity.on_picture(picture)
        results.append(result)
        _print(result, say)
        if args.output is not None:
            name = args.output / f"{names[picture]}.differences.png"
            with atomic_path(name) as temporary:
                draw_differences(result.photo, result.labels, result.expected).save(temporary)
            say(f"differences: {name}")
    miou = miou_of_set(results)
    agrees = all(result.agrees for result in results) and miou >= parity.least_miou
    mark = "" if miou >= parity.least_miou else "  <-- beyond tolerance"
    whole = "the picture" if len(results) == 1 else f"all {len(results)} pictures together"
    say(f"\nmIoU between the label maps of {whole}: {miou:.6f}, at least {parity.least_miou}{mark}")
    bisection = bisect(parity, args.model, results, say) if args.bisect and not agrees else None
    if bisection is not None:
        conclude(bisection, say)
    say("PARITY HOLDS" if agrees else "PARITY BROKEN")
    facts: dict[str, Any] = {
        "model": str(args.model),
        "model_sha256": model_sha256(args.model),
        "operator_paths": by_path,
    }
    entries = [
        {
            "picture": result.name,
            "agrees": result.agrees,
            "label_agreement": result.label_agreement,
            "miou": result.miou,
            "comparisons": [{**asdict(c), "agrees": c.agrees} for c in result.comparisons],
        }
        for result in results
    ]
    facts |= run_reference(args, network, manifest, pictures, say)
    if args.bisect:
        facts["bisection"] = bisection.facts() if bisection is not None else None
    facts |= {"agrees": agrees, "miou": miou, "least_miou": parity.least_miou}
    write_json(args.json, {**facts, "pictures": entries})
    return 0 if agrees else 1


def _check_weights(args: argparse.Namespace, manifest: Manifest) -> None:
    from freqfusion_export.networks.checkpoint_hash import checkpoint_sha256

    if args.checkpoint is None or not args.checkpoint.exists():  # whoever reads it says so
        return
    found_sha256 = checkpoint_sha256(args.checkpoint)
    if manifest.weights_sha256 not in (None, found_sha256):
        raise ExportError(
            f"{args.model} was exported from {manifest.weights_file} (sha256 {manifest.weights_sha256}), "
            f"and {args.checkpoint} is another file (sha256 {found_sha256}); give the one it was exported from"
        )


def _compare_networks(args: argparse.Namespace, manifest: Manifest) -> int:
    from freqfusion_runtime.predictors.opening import open_session

    from freqfusion_export.commands.network_parity import compare_networks
    from freqfusion_export.commands.precision_bisection import refuse_unless_half

    if args.bisect:
        refuse_unless_half(args.model, manifest.precision, manifest.task)
    _check_weights(args, manifest)
    is_half = manifest.precision in ("fp16", "bf16")
    paths = () if is_half else open_session(args.model, kernels=args.kernels).operator_paths
    return compare_networks(args, manifest, paths)


def _print(result: PictureParity, say: Callable[[str], None]) -> None:
    say(f"\n{result.name}")
    say(HEADER)
    for comparison in result.comparisons:
        say(row(comparison))
    say(f"  {'task':<13} label agreement {result.label_agreement:.6f}, mIoU between the label maps {result.miou:.6f}")
    if (first := result.first_mismatch) is not None:
        say(f"  first beyond tolerance: {first.level} {first.name}, {first.max_over_std:.1e} > {first.tolerance:.0e}")
