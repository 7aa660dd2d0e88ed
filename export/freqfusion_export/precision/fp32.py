# SPDX-License-Identifier: Apache-2.0
"""The precision that networks are traced in."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import KeptInFp32, Preprocessing
from freqfusion_runtime.model_files.manifest import Precision as Name

from freqfusion_export.errors import ExportError
from freqfusion_export.precision.opening import as_written, open_written
from freqfusion_export.precision.protocol import Precision, WrittenFile


@dataclass(frozen=True)
class Fp32(Precision):
    """Leaves everything as it is."""

    name: Name = "fp32"

    def check(self) -> None:
        """See ``Precision``: there is nothing to ask for."""
        if self.keep_fp32 or self.calibration is not None:
            raise ExportError("an fp32 file has nothing to keep in fp32 or to calibrate; name another precision")

    def apply(self, model: ir.Model, preprocessing: Preprocessing) -> tuple[ir.Model, tuple[KeptInFp32, ...]]:
        """See ``Precision``."""
        return model, ()

    def verify(self, file: WrittenFile) -> None:
        """See ``Precision``."""
        file.compare(self.name, open_written(file.path, as_written))
