# SPDX-License-Identifier: Apache-2.0
"""MNN: converts, then runs by its expressions."""

import subprocess
import sys
import tempfile
from pathlib import Path

import MNN
import numpy as np

model, inputs, outputs = sys.argv[1:]
images = np.load(inputs)["images"]
with tempfile.TemporaryDirectory() as folder:
    converted = str(Path(folder) / "model.mnn")
    options = ["-f", "ONNX", "--modelFile", model, "--MNNModel", converted, "--bizCode", "biz"]
    subprocess.run([str(Path(sys.executable).with_name("mnnconvert")), *options], check=True, stdout=sys.stderr)
    network = MNN.nn.load_module_from_file(converted, ["images"], ["logits"])
    given = MNN.expr.placeholder(list(images.shape), MNN.expr.NCHW)
    given.write(images)
    found = MNN.expr.convert(network.forward([given])[0], MNN.expr.NCHW)
    np.savez(outputs, logits=np.array(found.read()).reshape(found.shape))
