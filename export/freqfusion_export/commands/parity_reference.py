# SPDX-License-Identifier: Apache-2.0
"""``freqfusion parity --noise-floor`` and ``--save-reference``: PyTorch's own noise, and its answers in a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqfusion_runtime.commands.arguments import not_negative

if TYPE_CHECKING:
    from freqfusion_runtime.model_files.manifest import Manifest
    from torch import nn

SEEDS = 3  # other draws of the NMF bases where no number is given


def add_reference_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds both options."""
    parser.add_argument(
        "--noise-floor",
        type=not_negative,
        nargs="?",
        const=SEEDS,
        metavar="SEEDS",
        help=f"measure what PyTorch differs from itself by: TF32, and so many other NMF bases ({SEEDS} if not given)",
    )
    parser.add_argument(
        "--save-reference",
        type=_npz,
        metavar="FILE.npz",
        help="write what PyTorch computes, for `freqfusion build --verify` on machines without PyTorch",
    )


def _npz(text: str) -> Path:
    from freqfusion_runtime.agreement.reference_data import (
        SUFFIX,  # numpy is imported there, which --help should not wait for
    )

    path = Path(text)
    if path.suffix != SUFFIX:
        raise argparse.ArgumentTypeError(f"must end in {SUFFIX}, got {text!r}")
    return path


def run_reference(
    args: argparse.Namespace,
    network: nn.Module,
    manifest: Manifest,
    pictures: Sequence[Path],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Does what both options ask for; returns facts for ``--json``."""
    from freqfusion_runtime.agreement.noise import noise_lines

    from freqfusion_export.parity.noise_floor import measure_noise_floor
    from freqfusion_export.parity.reference_writer import save_reference

    facts: dict[str, Any] = {}
    noise = []
    if args.noise_floor is not None:
        noise = measure_noise_floor(network, manifest, pictures, args.noise_floor)
        facts["noise_floor"] = [asdict(entry) for entry in noise]
        for line in noise_lines(noise):
            say(line)
    if args.save_reference is not None:
        save_reference(args.save_reference, args.model, args.checkpoint, network, manifest, pictures, noise)
        size_mb = args.save_reference.stat().st_size / 1e6
        facts["reference"] = {"path": str(args.save_reference), "size_mb": round(size_mb, 1)}
        say(f"reference data: {args.save_reference}, {size_mb:.1f} MB, for `freqfusion build --verify`")
    return facts
