# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, after a tool in between where one is named before the other arguments."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

*tool, model, inputs, outputs = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    if tool:
        changed = str(Path(folder) / "changed.onnx")
        words = [word.replace("{in}", model).replace("{out}", changed) for word in tool]
        program = Path(sys.executable).with_name(words[0])
        subprocess.run([str(program), *words[1:]], check=True, stdout=sys.stderr)
        model = changed
    providers = [name for name in onnxruntime.get_available_providers() if "OpenVINO" in name]
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(model, options, providers=[*providers, "CPUExecutionProvider"])
    np.savez(outputs, logits=session.run(["logits"], {"images": np.load(inputs)["images"]})[0])
