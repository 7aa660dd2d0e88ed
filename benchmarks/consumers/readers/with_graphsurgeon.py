# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on what onnx-graphsurgeon wrote after folding constants."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon
import onnxruntime

model, inputs, outputs = sys.argv[1:]
graph = onnx_graphsurgeon.import_onnx(onnx.load(model))
graph.fold_constants().cleanup()
with tempfile.TemporaryDirectory() as folder:
    path = str(Path(folder) / "changed.onnx")
    onnx.save(onnx_graphsurgeon.export_onnx(graph), path)
    found = onnxruntime.InferenceSession(path).run(["logits"], {"images": np.load(inputs)["images"]})
np.savez(outputs, logits=found[0])
