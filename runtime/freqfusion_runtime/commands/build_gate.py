# SPDX-License-Identifier: Apache-2.0
"""The part of `freqfusion build` that is about the gate."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqfusion_runtime.building.gate import Gate
    from freqfusion_runtime.model_files.manifest import Manifest, Precision


def open_gate(args: argparse.Namespace, manifest: Manifest) -> Gate | None:
    """Opens what the engine is held against, and makes sure that there is a GPU, before minutes of building.

    None without ``--verify``.
    """
    from freqfusion_runtime.agreement.reference_data import SUFFIX, ReferenceData
    from freqfusion_runtime.building.gate import Gate
    from freqfusion_runtime.engines.cuda import require_gpu
    from freqfusion_runtime.engines.errors import GateError
    from freqfusion_runtime.model_files.external_data import model_sha256
    from freqfusion_runtime.pictures.reading import find_pictures

    if args.verify is None:
        for option in ("against", "reference"):
            if getattr(args, option) is not None:
                raise GateError(f"--{option} belongs to the gate. Name its pictures with --verify, or leave it out.")
        return None
    if manifest.task == "network":
        raise GateError(
            f"--verify compares what is made of pictures, and {args.model} does not say what its tensors mean (task "
            "network). Leave it out, and compare the ONNX file by `freqfusion parity`."
        )
    files = [path for path in args.verify if path.suffix == SUFFIX]
    if len(files) > 1:
        raise GateError(
            f"--verify takes one file of reference data, got {', '.join(map(str, files))}. Name one of them."
        )
    reference = ReferenceData(files[0]) if files else None
    if reference is not None:
        reference.check_belongs(args.model, model_sha256(args.model))
    places = [path for path in args.verify if path.suffix != SUFFIX]
    pictures = find_pictures(places) if places else []
    if args.dry_run:
        return None
    require_gpu("--verify runs the engine, which")
    # ONNX Runtime has no kernels for these on a CPU, or wrong ones.
    is_runnable = manifest.precision not in ("bf16", "fp8")
    against = args.against or (args.model if is_runnable or reference is None else None)
    judged_as: Precision | None = (
        "fp16" if args.tf32 and manifest.precision == "fp32" else None
    )  # TF32 keeps as many bits as fp16
    return Gate(manifest, pictures, against, reference, args.reference, judged_as)


def print_gate(gate: Gate, agrees: bool, output: Path, other_stays: bool, say: Callable[[str], None]) -> None:
    """Prints what the gate found, and PyTorch's own noise beside it."""
    from freqfusion_runtime.agreement.noise import noise_lines
    from freqfusion_runtime.building.gate_report import gate_lines

    say("GATE HOLDS" if agrees else f"GATE BROKEN: the engine was not kept, and {output} is not this engine")
    if other_stays:
        say(f"  {output} is still the engine that was there before; its manifest says what it was built from")
    noise = gate.reference.facts.noise_floor if gate.reference is not None else ()
    for line in (*gate_lines(gate.results), *noise_lines(noise)):
        say(line)
    if not noise:
        say("  PyTorch against itself: not measured; `freqfusion parity --noise-floor --save-reference` does")


def gate_json(gate: Gate, agrees: bool, other_stays: bool) -> dict[str, Any]:
    """What the gate found, for ``--json``."""
    from dataclasses import asdict

    from freqfusion_runtime.building.gate_report import gate_facts

    facts: dict[str, Any] = {
        "agrees": agrees,
        "pictures": gate_facts(gate.results),
        "earlier_engine_stays": other_stays,
    }
    facts["against"] = None if gate.against is None else str(gate.against)
    if gate.reference is not None:
        facts["reference"] = str(gate.reference.path)
        facts["noise_floor"] = [asdict(entry) for entry in gate.reference.facts.noise_floor]
    return facts
