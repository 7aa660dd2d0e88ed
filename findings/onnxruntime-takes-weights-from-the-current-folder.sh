#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# onnxruntime 1.32.0: a model with external data that is given as bytes takes its weights from the current folder, where
# any file of that name and size will do. There is no warning, and no error as long as such a file is there. Expected: a
# refusal, since bytes lie in no folder, or an option that names the folder to be required.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6

mkdir "$folder/model" "$folder/elsewhere"
cat > "$folder/program.py" <<'PROGRAM'
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

folder = sys.argv[1]
print("onnxruntime", onnxruntime.__version__)
weights = np.full(1024, 1.0, np.float32)
graph = helper.make_graph(
    [helper.make_node("Add", ["x", "w"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1024])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1024])],
    [numpy_helper.from_array(weights, "w")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
path = os.path.join(folder, "model", "model.onnx")
onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
(7 * weights).tofile(os.path.join(folder, "elsewhere", "weights.bin"))  # somebody else's
os.chdir(os.path.join(folder, "elsewhere"))
zeros = {"x": np.zeros(1024, np.float32)}
found = {}
for kind, source in (("path", path), ("bytes", open(path, "rb").read())):
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    found[kind] = float(session.run(None, zeros)[0][0])
print("the model adds 1; given as a path it adds {path:g}, given as bytes {bytes:g}".format(**found))
if found["bytes"] != 7:
    print("CHANGED: bytes do not take weights from the current folder any more")
    sys.exit(1)
PROGRAM
if ! "$folder/venv/bin/python" "$folder/program.py" "$folder"; then
    echo "CHANGED: it is refused"
    exit 1
fi
