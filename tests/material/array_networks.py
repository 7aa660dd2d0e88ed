# SPDX-License-Identifier: Apache-2.0
"""A network of arrays whose right answer is easy to compute: two inputs, one of half the other's size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from freqfusion_runtime.model_files.manifest import METADATA_KEY, FreeSize, Manifest, Preprocessing, TensorSpec
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IMAGE, DEPTH = ("batch", 3, "height", "width"), ("batch", 1, "height/2", "width/2")


def network_manifest(**changes: Any) -> Manifest:
    """The manifest of :func:`write_network`."""
    values = {
        "model": "Pair",
        "task": "network",
        "interface": "tensor",
        "precision": "fp32",
        "opset": 18,
        "num_classes": 1,
        "inputs": (TensorSpec("image", "float32", IMAGE), TensorSpec("depth", "float32", DEPTH)),
        "outputs": (TensorSpec("both", "float32", IMAGE), TensorSpec("pooled", "float32", ("batch", 3))),
        "weights": "checkpoint",
        "preprocessing": Preprocessing(size_divisor=1),
        "sizes": {"batch": FreeSize(1, 1), "height": FreeSize(4, 32), "width": FreeSize(2, 48)},
    }
    return Manifest(**{**values, **changes})


def write_network(path: Path, **changes: Any) -> Path:
    """Writes both = image + depth, enlarged by repetition, and its mean over each map."""
    nodes = [
        helper.make_node("Resize", ["depth", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Add", ["image", "large"], ["both"]),
        helper.make_node("ReduceMean", ["both", "axes"], ["pooled"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE),
            helper.make_tensor_value_info("depth", TensorProto.FLOAT, DEPTH),
        ],
        [
            helper.make_tensor_value_info("both", TensorProto.FLOAT, IMAGE),
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ("batch", 3)),
        ],
        [
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: network_manifest(**changes).to_json()})
    onnx.save(model, path)
    return path


def inputs_of(n: int, h: int, w: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Inputs for ``(n, 3, h, w)``."""
    generator = np.random.Generator(np.random.PCG64(seed))
    shapes = {"image": (n, 3, h, w), "depth": (n, 1, h // 2, w // 2)}
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def expected_of(inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """What the network makes of them."""
    both = inputs["image"] + inputs["depth"].repeat(2, axis=2).repeat(2, axis=3)
    return {"both": both, "pooled": both.mean(axis=(2, 3))}
