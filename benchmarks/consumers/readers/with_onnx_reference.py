# SPDX-License-Identifier: Apache-2.0
"""onnx's own evaluator, in numpy."""

import sys

import numpy as np
from onnx.reference import ReferenceEvaluator

model, inputs, outputs = sys.argv[1:]
np.savez(outputs, logits=ReferenceEvaluator(model).run(None, {"images": np.load(inputs)["images"]})[0])
