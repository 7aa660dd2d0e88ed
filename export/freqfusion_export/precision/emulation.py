# SPDX-License-Identifier: Apache-2.0
"""Runs half-typed files on a CPU as the hardware would that they are for."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from freqfusion_export.passes.widen_to_fp32 import WidenToFp32Pass


def emulated(path: Path) -> ir.Model:
    """Reads a file; a half-typed one as fp32 with every rounding (see ``WidenToFp32Pass``), any other as it is."""
    # Weights in other files would be looked for beside whatever is written or opened of this.
    return WidenToFp32Pass(rounding=True)(ir.external_data.load_to_model(ir.load(path))).model
