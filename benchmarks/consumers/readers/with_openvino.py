# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU, in fp32: by itself it takes bf16 where the processor can."""

import sys

import numpy as np
import openvino

model, inputs, outputs = sys.argv[1:]
core = openvino.Core()
compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.savez(outputs, logits=compiled({"images": np.load(inputs)["images"]})[0])
