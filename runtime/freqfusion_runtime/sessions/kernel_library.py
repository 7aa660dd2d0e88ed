# SPDX-License-Identifier: Apache-2.0
"""Where the custom-operator library for ONNX Runtime lies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER_VARIABLE = "FREQFUSION_LIBRARY_DIR"
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY_NAME = f"libfreqfusion_onnxruntime{_SUFFIX}"


def library_folder() -> Path:
    """Names the one place where native libraries lie: ``$FREQFUSION_LIBRARY_DIR``, else the package's ``lib``."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else Path(__file__).parents[1] / "lib"


def library_path() -> Path:
    """Where the custom-operator library is to lie, in :func:`library_folder`."""
    return library_folder() / LIBRARY_NAME
