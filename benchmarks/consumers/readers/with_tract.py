# SPDX-License-Identifier: Apache-2.0
"""tract: sizes must be fixed."""

import sys

import numpy as np
import tract

model, inputs, outputs = sys.argv[1:]
network = tract.onnx().load(model).into_model().into_runnable()
(found,) = network.run([np.load(inputs)["images"]])
np.savez(outputs, logits=found.to_numpy())
