# SPDX-License-Identifier: Apache-2.0
"""The half types: fp16 and bf16."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import KeptInFp32, Preprocessing

from freqfusion_export.precision.assignment import Half, assign_half
from freqfusion_export.precision.opening import as_written, open_written, with_every_rounding
from freqfusion_export.precision.protocol import Precision, WrittenFile

ONLY_EMULATED = ("bf16",)  # ONNX Runtime 1.32's CPU provider has no kernels for it


@dataclass(frozen=True)
class HalfPrecision(Precision):
    """Computes in a half type but for islands in fp32; see ``assign_half``."""

    name: Half

    def check(self) -> None:
        """See ``Precision``: patterns that match nothing show in the network only."""

    def apply(self, model: ir.Model, preprocessing: Preprocessing) -> tuple[ir.Model, tuple[KeptInFp32, ...]]:
        """See ``Precision``: ``model`` is changed."""
        islands = assign_half(
            model, self.name, keep=self.keep_fp32, calibration=self.calibration, preprocessing=preprocessing
        )
        return model, islands

    def verify(self, file: WrittenFile) -> None:
        """See ``Precision``: with every rounding the file asks for, and as it is besides where the machine can."""
        ways = [with_every_rounding] if self.name in ONLY_EMULATED else [with_every_rounding, as_written]
        file.compare(self.name, open_written(file.path, *ways))
