# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as a stranger opens a file with it."""

from __future__ import annotations

import onnxruntime


def session_of(model, library=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(str(library))
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
