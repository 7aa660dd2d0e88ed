# SPDX-License-Identifier: Apache-2.0
"""Turns an fp32 network into a half-typed one: islands, calibration, casts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import KeptInFp32, Preprocessing

from freqfusion_export.passes.assign_precision import AssignPrecisionPass
from freqfusion_export.precision.calibration import Calibration
from freqfusion_export.precision.islands import RANGE, find_islands, reasons
from freqfusion_export.precision.ranges import scan

Half = Literal["fp16", "bf16"]
HALF_TYPES: dict[Half, ir.DataType] = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def assign_half(
    model: ir.Model,
    precision: Half,
    *,
    keep: Sequence[str] = (),
    calibration: Calibration | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[KeptInFp32, ...]:
    """Types a network in place.

    Args:
        model: All fp32.
        precision: The half type.
        keep: Patterns of node, module and stage names that stay in fp32 beside the islands.
        calibration: Pictures to look for overflow with; without them, only weights are looked at.
        preprocessing: How the pictures become inputs.

    Returns:
        What stayed in fp32, and why.

    Raises:
        ExportError: See ``find_islands``, ``AssignPrecisionPass`` and ``Calibration.feeds``.
    """
    dtype = HALF_TYPES[precision]
    islands = find_islands(model, dtype, keep)
    found: list[str] = []
    if calibration is not None:
        seen, nodes = scan(model, dtype, calibration.feeds(model.graph, preprocessing or Preprocessing()))
        producers = {value.name: node for node in model.graph for value in node.outputs}
        found = [str(finding) for finding in seen if producers[finding.value] not in islands]
        for node in nodes:
            islands.setdefault(node, RANGE)
    counts = Counter(islands.values())
    AssignPrecisionPass(dtype, islands)(model)
    return tuple(
        KeptInFp32(name, reason, counts[name], tuple(found) if name == RANGE else ())
        for name, reason in reasons().items()
        if name in counts
    )
