# SPDX-License-Identifier: Apache-2.0
"""Where the custom-operator library for ONNX Runtime lies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER_VARIABLE = "FREQFUSION_LIBRARY_DIR"
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY_NAME = f"libfreqfusion_onnxruntime{_SUFFIX}"


def library_path() -> Path:
    """Names the one place where the library is looked for: ``$FREQFUSION_LIBRARY_DIR``, else the package's ``lib``."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder) if folder else Path(__file__).parent / "lib") / LIBRARY_NAME
