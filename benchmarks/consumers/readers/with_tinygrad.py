# SPDX-License-Identifier: Apache-2.0
"""tinygrad, on the CPU."""

import os
import sys

os.environ["DEV"] = "CPU"

import numpy as np
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner

model, inputs, outputs = sys.argv[1:]
found = OnnxRunner(model)({"images": Tensor(np.load(inputs)["images"])})
np.savez(outputs, logits=next(iter(found.values())).numpy())
