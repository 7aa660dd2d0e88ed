# SPDX-License-Identifier: Apache-2.0
"""Apache TVM: relax, compiled by LLVM."""

import sys

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

model, inputs, outputs = sys.argv[1:]
images = np.load(inputs)["images"]
module = from_onnx(onnx.load(model))
module = relax.transform.DecomposeOpsForInference()(module)
built = tvm.compile(relax.transform.LegalizeOps()(module), "llvm")
machine = relax.VirtualMachine(built, tvm.cpu())
found = machine["main"](tvm.runtime.tensor(images))
np.savez(outputs, logits=(found if hasattr(found, "numpy") else found[0]).numpy())
