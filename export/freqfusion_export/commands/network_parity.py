# SPDX-License-Identifier: Apache-2.0
"""The part of `freqfusion parity` that is about networks of the user's own: arrays in, arrays out."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.json_output import printer, write_json

from freqfusion_export.commands.own_network import adopt_network, open_network
from freqfusion_export.commands.parity_table import HEADER, row
from freqfusion_export.commands.precision_bisection import bisect, conclude
from freqfusion_export.errors import ExportError

if TYPE_CHECKING:
    from freqfusion_runtime.model_files.manifest import Manifest
    from freqfusion_runtime.sessions.protocol import OperatorPath

    from freqfusion_export.parity.network_parity import InputParity


def compare_networks(args: argparse.Namespace, manifest: Manifest, paths: Sequence[OperatorPath]) -> int:
    """Runs the command on a model of which nobody says what its tensors mean; returns the exit status.

    Raises:
        ExportError: If the network's code is not named, or an option has no sense here.
    """
    import torch
    from freqfusion_runtime.commands.run_arrays import check_archives, read_inputs
    from freqfusion_runtime.model_files.external_data import model_sha256

    from freqfusion_export.parity.network_parity import NetworkParity

    if args.network is None:
        raise ExportError(
            f"{args.model} is a network of its owner's. Name the code that makes it, such as "
            "--network mypackage.models:build_unet"
        )
    for option in ("noise_floor", "save_reference", "output"):
        if getattr(args, option) is not None:
            raise ExportError(
                f"--{option.replace('_', '-')} is about pictures, and {args.model} takes arrays. Leave it out"
            )
    check_archives(args.model, args.pictures)
    say = printer(args.json)
    network, _ = open_network(args.network, args.checkpoint, say, args.weights)
    first = read_inputs(args.pictures[0])
    adopt_network(network, {spec.name: torch.from_numpy(first[spec.name]) for spec in manifest.inputs}, args, say)
    parity = NetworkParity(args.model, network, args.kernels, args.layers, args.threads)
    by_path = {path: sum(p.path == path for p in paths) for path in ("kernel", "function body")}
    if parity.precision in ("fp16", "bf16"):
        say(f"{args.model}: {parity.precision}, computed in fp32 with every rounding that the file asks for")
    else:
        say(f"{args.model}: FreqFusion nodes by kernel: {by_path['kernel']}, by body: {by_path['function body']}")
    results = [parity.on_inputs(path.name, read_inputs(path)) for path in args.pictures]
    for result in results:
        _print(result, say)
    agrees = all(result.agrees for result in results)
    bisection = bisect(parity, args.model, results, say) if args.bisect and not agrees else None
    if bisection is not None:
        conclude(bisection, say)
    say("PARITY HOLDS" if agrees else "PARITY BROKEN")
    facts: dict[str, Any] = {
        "model": str(args.model),
        "model_sha256": model_sha256(args.model),
        "operator_paths": by_path,
        "agrees": agrees,
    }
    if args.bisect:
        facts["bisection"] = bisection.facts() if bisection is not None else None
    entries = [
        {
            "archive": result.name,
            "agrees": result.agrees,
            "comparisons": [{**asdict(c), "agrees": c.agrees} for c in result.comparisons],
        }
        for result in results
    ]
    write_json(args.json, {**facts, "archives": entries})
    return 0 if agrees else 1


def _print(result: InputParity, say: Callable[[str], None]) -> None:
    say(f"\n{result.name}")
    say(HEADER)
    for comparison in result.comparisons:
        say(row(comparison))
    if (first := result.first_mismatch) is not None:
        say(f"  first beyond tolerance: {first.level} {first.name}, {first.max_over_std:.1e} > {first.tolerance:.0e}")
