# SPDX-License-Identifier: Apache-2.0
"""Opens a file that was just written on ONNX Runtime's CPU provider, in the ways its precision is to be tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime

from freqfusion_export.errors import VerificationError
from freqfusion_export.precision.emulation import emulated


def open_written(path: Path, *ways: Callable[[Path], Any]) -> list[Any]:
    """Checks a file and opens it in each of some ways.

    Raises:
        VerificationError: If it is malformed or cannot be opened.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
        return [way(path) for way in ways]
    except Exception as e:  # onnx and onnxruntime raise unrelated types for a bad model
        raise VerificationError(f"{path.name}: the exported graph is malformed: {e}") from e


def as_written(path: Path) -> Any:
    """Opens a file as it is, function bodies only."""
    return _session(path)


def with_every_rounding(path: Path) -> Any:
    """Opens a half-typed file so that it is rounded wherever it asks for it; see ``emulated``."""
    return _session(ir.to_proto(emulated(path)).SerializeToString())


def _session(content: Path | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
