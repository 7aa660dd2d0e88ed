# SPDX-License-Identifier: Apache-2.0
"""Times an exported network of the user's own: function bodies, kernels, and what PyTorch makes of the module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from freqfusion_runtime.model_files.free_sizes import usual_shapes
from freqfusion_runtime.model_files.manifest import Manifest
from freqfusion_runtime.sessions.kernel_library import usable_library
from torch import Tensor, nn

from freqfusion_export.bench.naive import export_naively, naive_operators
from freqfusion_export.bench.timing import Run, open_with_kernels, session_options
from freqfusion_export.networks.own_network import takes_by_keyword

PLAIN = "torch.onnx.export of the module"
EAGER = "PyTorch, the module as it is"
BODIES = "the file, function bodies"
KERNELS = "the file, kernels"


def example_tensors(manifest: Manifest) -> dict[str, Tensor]:
    """Fixed inputs of the sizes that a file was exported with: normal numbers, zeros of other types."""
    generator = np.random.Generator(np.random.PCG64(0))
    shapes = usual_shapes(manifest)
    return {
        spec.name: torch.from_numpy(
            generator.standard_normal(shapes[spec.name]).astype(np.float32)
            if spec.dtype == "float32"
            else np.zeros(shapes[spec.name], spec.dtype)
        )
        for spec in manifest.inputs
    }


def runs_of_file(path: Path, tensors: dict[str, Tensor], threads: int) -> dict[str, Run]:
    """The file's forms, ready to run once."""
    feed = {name: tensor.numpy() for name, tensor in tensors.items()}

    def opened(by_kernels: bool) -> Run:
        options = session_options(threads)
        if by_kernels:
            session = open_with_kernels(path, options)
        else:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feed)

    return {BODIES: opened(False), **({KERNELS: opened(True)} if usable_library() is not None else {})}


def runs_of_module(network: nn.Module, tensors: dict[str, Tensor], folder: Path, threads: int) -> dict[str, Run]:
    """The module in PyTorch, and its plain export as far as there is one; ``unfold`` takes the place of our operators.

    A module that has its author's FreqFusion is exported as it is.
    """
    torch.set_num_threads(threads)
    by_keyword = takes_by_keyword(network, tensors)

    def eager() -> None:
        with torch.inference_mode():
            network(**tensors) if by_keyword else network(*tensors.values())

    runs: dict[str, Run] = {EAGER: eager}
    plain = folder / "plain.onnx"
    try:
        with naive_operators():
            export_naively(network, str(plain), () if by_keyword else tuple(tensors.values()), tensors, dynamo=True)
        session = ort.InferenceSession(str(plain), session_options(threads), providers=["CPUExecutionProvider"])
    except Exception:  # whatever torch or ONNX Runtime cannot: there is nothing to compare with then
        return runs
    names = [tensor.name for tensor in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors.values(), strict=True)}
    return {PLAIN: lambda: session.run(None, feed), **runs}
