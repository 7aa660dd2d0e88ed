# SPDX-License-Identifier: Apache-2.0
"""IREE: imported, compiled for this processor, run."""

import subprocess
import sys
import tempfile
from pathlib import Path

import iree.compiler
import iree.runtime
import numpy as np

model, inputs, outputs = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    program = str(Path(folder) / "model.mlir")
    importer = str(Path(sys.executable).with_name("iree-import-onnx"))
    subprocess.run([importer, model, "--opset-version", "17", "-o", program], check=True)
    compiled = iree.compiler.compile_file(program, target_backends=["llvm-cpu"], input_type="onnx")
context = iree.runtime.SystemContext(config=iree.runtime.Config("local-task"))
context.add_vm_module(iree.runtime.VmModule.copy_buffer(context.instance, compiled))
(module,) = [value for name, value in context.modules.items() if name not in ("hal", "hal_inline")]
(entry,) = [name for name in module.vm_module.function_names if not name.startswith("_") and "$" not in name]
found = module[entry](np.load(inputs)["images"])
np.savez(outputs, logits=(found if hasattr(found, "to_host") else found[0]).to_host())
