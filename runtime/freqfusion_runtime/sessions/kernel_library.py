# SPDX-License-Identifier: Apache-2.0
"""Where the custom-operator library for ONNX Runtime lies, and what it did."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from pathlib import Path

FOLDER_VARIABLE = "FREQFUSION_LIBRARY_DIR"
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY_NAME = f"libfreqfusion_onnxruntime{_SUFFIX}"
_MOST_COUNTERS = 64  # an operator has one for each device


def library_folder() -> Path:
    """Names the one place where native libraries lie: ``$FREQFUSION_LIBRARY_DIR``, else the package's ``lib``."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else Path(__file__).parents[1] / "lib"


def library_path() -> Path:
    """Where the custom-operator library is to lie, in :func:`library_folder`."""
    return library_folder() / LIBRARY_NAME


def kernels_made(library: Path) -> Counter[str]:
    """Counts the kernels that sessions opened in this thread have made so far, by operator."""
    handle = ctypes.CDLL(str(library))
    handle.freqfusion_onnxruntime_kernel_name.restype = ctypes.c_char_p
    counts = (ctypes.c_int64 * _MOST_COUNTERS)()
    made: Counter[str] = Counter()
    for index in range(handle.freqfusion_onnxruntime_kernel_counts(counts)):
        operator, _, _device = handle.freqfusion_onnxruntime_kernel_name(index).decode().partition("/")
        made[operator] += counts[index]
    return made
