# SPDX-License-Identifier: Apache-2.0
"""Turns an fp32 network into an 8-bit one: ranges, choice of layers by sensitivity, Q/DQ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import KeptInFp32, Preprocessing

from freqfusion_export.errors import ExportError
from freqfusion_export.passes.assign_precision import ISLAND_KEY
from freqfusion_export.precision.calibration import Calibration
from freqfusion_export.precision.quantization import Calibrator, Target, group_of, plan
from freqfusion_export.precision.sensitivity import GroupLoss, settle

EIGHT_BITS = ("int8", "fp8")
JUDGED_PICTURES = 4  # of the calibration's, by which groups are weighed; each costs a run for every group


@dataclass(frozen=True)
class Options:
    """How to quantise.

    Attributes:
        calibrator: ``entropy`` or ``percentile``.
        target: ``tensorrt`` or ``onnxruntime``.
        max_drop: Largest share of labels that may differ from fp32's.
        weight_bits: 8, or 7 for processors without VNNI.
    """

    calibrator: Calibrator = "percentile"
    target: Target = "tensorrt"
    max_drop: float = 0.05
    weight_bits: int = 8


def checked_request(precision: str, calibration: Calibration | None, options: Options) -> Calibration:
    """Returns the calibration, or raises ``ExportError`` if there is none or the options make no sense."""
    if calibration is None:
        raise ExportError(f"{precision} takes its scales from pictures: name a folder of typical ones (--calibration)")
    if not 0 <= options.max_drop <= 1:
        raise ExportError(f"the label drop allowed must be from 0 to 1, got {options.max_drop}")
    return calibration


def quantise(
    model: ir.Model,
    precision: str,
    calibration: Calibration | None,
    preprocessing: Preprocessing,
    keep: Sequence[str] = (),
    options: Options | None = None,
) -> tuple[ir.Model, tuple[KeptInFp32, ...], tuple[GroupLoss, ...]]:
    """Returns the network in 8 bits, what stayed in fp32, and the table of what each group of layers loses.

    Raises:
        ExportError: Without calibration, or if the limit cannot be met.
    """
    options = options or Options()
    calibration = checked_request(precision, calibration, options)
    quantization = plan(
        model,
        precision,
        calibration.feeds(model.graph, preprocessing),
        calibrator=options.calibrator,
        target=options.target,
        keep=keep,
        weight_bits=options.weight_bits,
    )
    judged = list(islice(calibration.feeds(model.graph, preprocessing), JUDGED_PICTURES))
    quantization, table = settle(model, quantization, judged, options.max_drop)
    sensitive = {line.group for line in table if line.is_kept}
    result = quantization.applied(model)
    kept = Counter[str]()
    for node in result.graph:
        if node.op_type == "Conv" and node.name not in quantization.nodes:
            name = SENSITIVE if group_of(node) in sensitive else EXCLUDED
            node.metadata_props[ISLAND_KEY] = name
            kept[name] += 1
    why = {
        SENSITIVE: f"taken out, worst first, until at most {options.max_drop:.1%} of the labels differ from fp32's",
        EXCLUDED: "the sampler's offsets, and what --keep-fp32 names",
    }
    found = tuple(f"{line.group}: {line.label_drop:.2%} of the labels" for line in table if line.is_kept)
    islands = tuple(
        KeptInFp32(name, why[name], kept[name], found if name == SENSITIVE else ()) for name in why if name in kept
    )
    return result, islands, table


SENSITIVE = "sensitive in 8 bits"
EXCLUDED = "not to be quantised"
