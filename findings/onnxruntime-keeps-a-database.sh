#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# onnxruntime 1.32.0 on Linux: opening a model makes a SQLite database in ~/.cache/Microsoft/DeveloperTools and a file
# .ses with an identifier in the folder for temporary files; the library names the host mobile.events.data.microsoft.com.
# The variable ORT_DISABLE_TELEMETRY=1 keeps it from that. Expected: opening a model to run it writes nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6

program='
import onnx, onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnxruntime.InferenceSession(model.SerializeToString())
'
written() {
    mkdir -p "$folder/$1/home" "$folder/$1/tmp"
    env HOME="$folder/$1/home" TMPDIR="$folder/$1/tmp" "${@:2}" "$folder/venv/bin/python" -c "$program"
    (cd "$folder/$1" && find . -type f | sort)
}
echo "as it is:"
written usual env
echo "with ORT_DISABLE_TELEMETRY=1:"
written silent env ORT_DISABLE_TELEMETRY=1
if [ -z "$(find "$folder/usual/home" "$folder/usual/tmp" -type f)" ]; then
    echo "CHANGED: opening a model writes nothing any more"
    exit 1
fi
[ -z "$(find "$folder/silent/home" "$folder/silent/tmp" -type f)" ]
