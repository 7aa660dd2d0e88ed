# SPDX-License-Identifier: Apache-2.0
"""onnx2torch: a PyTorch module of an ONNX file."""

import sys

import numpy as np
import onnx2torch
import torch

model, inputs, outputs = sys.argv[1:]
with torch.inference_mode():
    found = onnx2torch.convert(model)(torch.from_numpy(np.load(inputs)["images"]))
np.savez(outputs, logits=found.numpy())
