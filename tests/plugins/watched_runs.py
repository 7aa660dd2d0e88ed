# SPDX-License-Identifier: Apache-2.0
"""Programs that run under a sanitizer, and ONNX Runtime under one."""

from __future__ import annotations

import os
import subprocess

LEVELS = {"baseline": set(), "avx2": {"avx2", "fma", "f16c"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}

# Reads models and inputs from files, so that the process under the sanitizer loads ONNX Runtime and little else.
RUN_MODELS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

library, folder = sys.argv[1], Path(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
options.register_custom_ops_library(library)
for model in sorted(folder.glob("*.onnx")):
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = dict(np.load(model.with_suffix(".npz")))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: session.run(None, feed)[0], range(4)))
    assert all(np.array_equal(results[0], other) for other in results[1:])
    np.save(model.with_suffix(".npy"), results[0])
print("ran", len(list(folder.glob("*.npy"))))
"""

# Says of each model whether a session can be made of it.
OPEN_MODELS = """
import sys
from pathlib import Path

import onnxruntime

options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.register_custom_ops_library(sys.argv[1])
for model in sorted(Path(sys.argv[2]).glob("*.onnx")):
    try:
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        print(model.stem, "opened")
    except Exception:
        print(model.stem, "refused")
"""


def run_program(*command: str, **environment: str) -> str:
    """Runs ``command``, which must end well within two minutes, and returns what it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
