# SPDX-License-Identifier: Apache-2.0
"""ONNX models of one FreqFusion node, and sessions that run them with or without the compiled operators."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

ELEMENT = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("freqfusion", 1)]


def one_node_model(
    operator: str,
    attributes: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    functions: Sequence[onnx.FunctionProto] = (),
    shape: Sequence[int | str | None] | None = None,
) -> onnx.ModelProto:
    """A model with one node of ``operator``, marked as the exporter marks it.

    Args:
        operator: ONNX name.
        attributes: The node's own; ``sizes`` of ResizeArgmax becomes an input named ``sizes``.
        dtype: The node's element type. Inputs and output of the model are fp32 all the same, with casts between, since
            numpy has no bfloat16.
        functions: Model-local function bodies.
        shape: Of the first input, if stated; the others' are left open.
    """
    count = 1 if operator in ("LocalSimilarity", "ResizeArgmax") else 2
    names = [f"x{i}" for i in range(count)]
    inputs = [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, shape)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names[1:]]
    nodes = [helper.make_node("Cast", [name], [f"{name}_cast"], to=ELEMENT[dtype]) for name in names]
    operands = [f"{name}_cast" for name in names]
    written = dict(attributes)
    if operator == "ResizeArgmax":
        written.pop("sizes", None)
        inputs.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, None))
        operands.append("sizes")
    written = {key: int(value) if isinstance(value, bool) else value for key, value in written.items()}
    written = {"plugin_namespace": "freqfusion", "plugin_version": "1", **written}
    nodes.append(helper.make_node(operator, operands, ["y"], domain="freqfusion", name="the_node", **written))
    output, kind = "y", TensorProto.INT32
    if operator != "ResizeArgmax":
        nodes.append(helper.make_node("Cast", ["y"], ["out"], to=TensorProto.FLOAT))
        output, kind = "out", TensorProto.FLOAT
    graph = helper.make_graph(nodes, "one_node", inputs, [helper.make_tensor_value_info(output, kind, None)])
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions, ir_version=10)


def models_beyond_64_bits() -> dict[str, onnx.ModelProto]:
    """Models whose sizes do not fit: what follows from extents or attributes near 2^62 is past every integer."""
    carafe = {"kernel_size": 3, "group_size": 2}
    return {
        "extent": one_node_model("Carafe", {**carafe, "scale_factor": 4}, shape=(1, 4, 2**62, 3)),
        "extent-at-the-limit": one_node_model("Carafe", {**carafe, "scale_factor": 2}, shape=(1, 4, 2**62, 2**62 - 1)),
        "scale": one_node_model("Carafe", {**carafe, "scale_factor": 2**62}, shape=(1, 4, 5, 7)),
        "negative-scale": one_node_model("Carafe", {**carafe, "scale_factor": -(2**62)}, shape=(1, 4, "h", 7)),
        "kernel": one_node_model("LocalSimilarity", {"kernel_size": 2**62 + 1, "dilation": 2}, shape=(1, 4, 5, 7)),
        "negative-kernel": one_node_model("LocalSimilarity", {"kernel_size": -(2**62), "dilation": 2}),
    }


OPEN_ALONE = {"extent", "extent-at-the-limit"}  # of those: the others are refused when the session is made


def open_session(model: onnx.ModelProto, library: Path | None, threads: int = 2) -> onnxruntime.InferenceSession:
    """A CPU session for ``model``, with the compiled operators if ``library`` names them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_session(
    session: onnxruntime.InferenceSession, tensors: Sequence[torch.Tensor], sizes: Sequence[int] | None = None
) -> torch.Tensor:
    """Feeds ``tensors`` (and ``sizes``); the result has their dtype, or int32 for labels."""
    feed = {f"x{i}": tensor.float().numpy() for i, tensor in enumerate(tensors)}
    if sizes is not None:
        feed["sizes"] = np.asarray(sizes, np.int64)
    (result,) = session.run(None, feed)
    values = torch.from_numpy(result)
    return values if values.dtype == torch.int32 else values.to(tensors[0].dtype)


def kernel_counts(library: Path) -> dict[str, int]:
    """How many kernels of each kind this thread has made so far."""
    handle = ctypes.CDLL(str(library))
    handle.freqfusion_onnxruntime_kernel_name.restype = ctypes.c_char_p
    counts = (ctypes.c_int64 * 64)()
    total = handle.freqfusion_onnxruntime_kernel_counts(counts)
    names = [handle.freqfusion_onnxruntime_kernel_name(i).decode() for i in range(total)]
    assert handle.freqfusion_onnxruntime_kernel_name(total) is None
    return dict(zip(names, counts, strict=False))
