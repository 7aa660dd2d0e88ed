# SPDX-License-Identifier: Apache-2.0
"""Takes a half-typed file apart, to type it again with more of it in fp32."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir

from freqfusion_export.errors import ExportError
from freqfusion_export.passes.assign_precision import CAST_KEY, HALF_TYPES, ISLAND_KEY, AssignPrecisionPass
from freqfusion_export.passes.label_stages import MODULE_KEY
from freqfusion_export.passes.widen_to_fp32 import WidenToFp32Pass
from freqfusion_export.precision.islands import USER
from freqfusion_export.precision.quantization import group_of


class Retyping:
    """A half-typed file in fp32, and the types it had.

    Weights stay rounded as the file holds them, also in nodes that are kept in fp32: the exact ones are not in it.

    Args:
        path: The file.

    Attributes:
        stages: Names of the nodes that compute in the half type, by the stage they belong to (``backbone.block3``), in
            the graph's order. Nodes of no module are a stage of their own.

    Raises:
        ExportError: If none does.
    """

    def __init__(self, path: Path) -> None:
        model = ir.external_data.load_to_model(ir.load(path))
        self.stages: dict[str, list[str]] = {}
        dtypes = set[ir.DataType]()
        for node in model.graph:
            halves = {value.dtype for value in node.outputs if value.dtype in HALF_TYPES}
            if halves and CAST_KEY not in node.metadata_props:
                stage = group_of(node) if MODULE_KEY in node.metadata_props else str(node.name)
                self.stages.setdefault(stage, []).append(str(node.name))
                dtypes |= {dtype for dtype in halves if dtype is not None}
        if len(dtypes) != 1:
            raise ExportError(
                f"{path} has {len(dtypes)} half types in its nodes, and one was expected. Nothing can be typed again; "
                "export it as fp16 or bf16, with fewer nodes kept in fp32."
            )
        (self._dtype,) = dtypes
        self._model = WidenToFp32Pass(rounding=False)(model).model

    def keeping(self, names: Collection[str]) -> ir.Model:
        """Types it again with these nodes in fp32 beside its islands, and widens it with every rounding to be run."""
        model, kept = self._model.clone(), set(names)
        islands = {
            node: node.metadata_props.get(ISLAND_KEY, USER)
            for node in model.graph
            if node.name in kept or ISLAND_KEY in node.metadata_props
        }
        return WidenToFp32Pass(rounding=True)(AssignPrecisionPass(self._dtype, islands)(model).model).model
