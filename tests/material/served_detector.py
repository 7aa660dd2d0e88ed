# SPDX-License-Identifier: Apache-2.0
"""A detector for the tests of serving, whose answers can be computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from freqfusion_runtime.model_files.manifest import METADATA_KEY, TensorSpec
from onnx import TensorProto, helper, numpy_helper
from small_models import image_manifest, tensor_manifest

SLOTS = 3


def write_detector(path, interface: str):
    """Writes a detector whose boxes grow with the mean level; its tensors come with their size before padding."""
    is_image = interface == "image"
    base = image_manifest() if is_image else tensor_manifest()
    specs = [
        TensorSpec("num", "int64", (1,)),
        TensorSpec("boxes", "float32", (1, SLOTS, 4)),
        TensorSpec("scores", "float32", (1, SLOTS)),
        TensorSpec("labels", "int64", (1, SLOTS)),
    ]
    shape = (1, "height", "width", 3) if is_image else (1, 3, "height", "width")
    inputs = [TensorSpec("image", base.inputs[0].dtype, shape)]
    if not is_image:
        inputs.append(TensorSpec("size", "int64", (1, 2)))
    manifest = replace(base, task="detection", inputs=tuple(inputs), outputs=tuple(specs))
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["unit", "mean"], ["boxes" if is_image else "small"]),
    ]
    if not is_image:
        nodes += [
            helper.make_node("Cast", ["size"], ["sides"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["sides"], ["sum"], keepdims=0),
            helper.make_node("Add", ["small", "sum"], ["boxes"]),
        ]
    constants = {
        "unit": np.ones((1, SLOTS, 4), np.float32) * np.arange(1, 5, dtype=np.float32),
        "fixed_num": np.array([2], np.int64),
        "fixed_scores": np.array([[0.9, 0.5, 0.0]], np.float32),
        "fixed_labels": np.array([[3, 1, 0]], np.int64),
    }
    nodes += [helper.make_node("Identity", [f"fixed_{name}"], [name]) for name in ("num", "scores", "labels")]
    types = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    infos = {spec.name: helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape)
             for spec in (*inputs, *specs)}  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "detector",
        [infos[spec.name] for spec in inputs],
        [infos[spec.name] for spec in specs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, path)
    return path
