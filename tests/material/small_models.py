# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models of both interfaces whose right answer is easy to compute, with a manifest inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, Preprocessing, TensorSpec
from onnx import TensorProto, helper, numpy_helper

CLASSES = ("sky", "tree", "road", "car")
PALETTE = ((70, 130, 180), (107, 142, 35), (128, 64, 128), (0, 0, 142))
# Each class likes another colour; applied to the normalised picture, averaged over 8 x 8 pixels.
WEIGHTS = np.array([[0.1, 0.2, 0.9], [-0.3, 0.9, -0.4], [-0.5, -0.5, -0.4], [0.9, -0.4, -0.2]], np.float32)
BIAS = np.array([0.0, 0.1, 0.2, 0.0], np.float32)


def tensor_manifest(**changes: object) -> Manifest:
    """The manifest of :func:`write_tensor_model`."""
    manifest = Manifest(
        model="segnext_t",
        task="semantic_segmentation",
        interface="tensor",
        precision="fp32",
        opset=18,
        num_classes=4,
        classes=CLASSES,
        palette=PALETTE,
        inputs=(TensorSpec("image", "float32", ("batch", 3, "height", "width")),),
        outputs=(TensorSpec("logits", "float32", ("batch", 4, "height/8", "width/8")),),
        weights="random",
    )
    return replace(manifest, **changes)


def image_manifest(**changes: object) -> Manifest:
    """The manifest of :func:`write_image_model`."""
    manifest = replace(
        tensor_manifest(),
        interface="image",
        inputs=(TensorSpec("image", "uint8", ("batch", "height", "width", 3)),),
        outputs=(TensorSpec("labels", "int32", ("batch", "height", "width")),),
    )
    return replace(manifest, **changes)


def write_tensor_model(
    path: Path, manifest: Manifest | None = None, operator: str | None = None, metadata: str | None = None
) -> Path:
    """Writes logits = conv1x1(mean over 8 x 8), normalised NCHW float in.

    Args:
        path: Where.
        manifest: Stored in the metadata; the fitting one by default.
        operator: A node ``freqfusion::<operator>`` through which the logits go; its function body changes nothing.
        metadata: Stored instead of a manifest, even where it is none.
    """
    last = "mixed" if operator else "logits"
    nodes = [
        helper.make_node("AveragePool", ["image"], ["means"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["means", "weights", "bias"], [last]),
    ]
    functions = []
    opsets = [helper.make_opsetid("", 18)]
    if operator:
        attributes = {"kernel_size": 3, "dilation": 2}
        nodes.append(helper.make_node(operator, [last], ["logits"], name="echo", domain="freqfusion", **attributes))
        inner = [helper.make_node("Identity", ["x"], ["y"])]
        functions = [helper.make_function("freqfusion", operator, ["x"], ["y"], inner, opsets, list(attributes))]
        opsets = [*opsets, helper.make_opsetid("freqfusion", 1)]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "classes", "h", "w"])],
        [
            numpy_helper.from_array(WEIGHTS[:, :, None, None], "weights"),
            numpy_helper.from_array(BIAS, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    return _save(model, path, (manifest or tensor_manifest()).to_json() if metadata is None else metadata)


def write_image_model(path: Path, manifest: Manifest | None = None, upscale: int = 1) -> Path:
    """Writes uint8 NHWC RGB in, label map out: the class whose colour fits best, pixel by pixel.

    A right model has the label map at the picture's size; ``upscale`` makes a wrong one.
    """
    plan = Preprocessing()
    weights = (WEIGHTS / np.array(plan.std, np.float32)).T  # (3, 4)
    bias = BIAS - np.array(plan.mean, np.float32) @ weights
    constants = {"weights": weights.astype(np.float32), "bias": bias.astype(np.float32)}
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "weights"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["sums"]),
        helper.make_node("Transpose", ["sums"], ["scores"], perm=[0, 3, 1, 2]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])]
    if upscale > 1:
        constants["scales"] = np.array([1, 1, upscale, upscale], np.float32)
        nodes.append(helper.make_node("Resize", ["scores", "", "scales"], ["resized"], mode="nearest"))
    nodes += [
        helper.make_node("ArgMax", ["resized" if upscale > 1 else "scores"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.INT32),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [helper.make_tensor_value_info("labels", TensorProto.INT32, ["batch", "out_height", "out_width"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return _save(model, path, (manifest or image_manifest()).to_json())


def write_hostile_model(path: Path, kind: Literal["endless", "greedy"]) -> Path:
    """Writes a model of the image interface that computes without end, or takes 16 GiB of memory."""
    constants = {
        "endless": {"trips": np.array(1 << 62), "go_on": np.array(True)},
        "greedy": {"many": np.array([1 << 32])},
    }[kind]
    nodes = [
        helper.make_node("ArgMax", ["image"], ["best"], axis=3, keepdims=0),
        helper.make_node("Cast", ["best"], ["start"], to=TensorProto.INT32),
    ]
    if kind == "endless":
        value = helper.make_tensor_value_info("value", TensorProto.INT32, ["batch", "height", "width"])
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["condition"], ["on"]),
                helper.make_node("Identity", ["value"], ["next"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("trip", TensorProto.INT64, []),
                helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
                value,
            ],
            [
                helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", TensorProto.INT32, ["batch", "height", "width"]),
            ],
        )
        nodes.append(helper.make_node("Loop", ["trips", "go_on", "start"], ["labels"], body=body))
    else:
        nodes += [
            # Known when it runs only: what a file computes without a picture is counted before it is opened.
            helper.make_node("ReduceMax", ["best"], ["any"], keepdims=0),
            helper.make_node("Add", ["many", "any"], ["most"]),
            helper.make_node(
                "ConstantOfShape", ["most"], ["zeros"], value=numpy_helper.from_array(np.zeros(1, np.int32))
            ),
            helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Add", ["start", "zero"], ["labels"]),
        ]
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("labels", TensorProto.INT32, ["batch", "height", "width"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return _save(model, path, image_manifest().to_json())


def _save(model: onnx.ModelProto, path: Path, metadata: str) -> Path:
    onnx.checker.check_model(model, full_check=True)
    if metadata:
        helper.set_model_props(model, {METADATA_KEY: metadata})
    onnx.save(model, path)
    return path


def keep_weights_outside(path: Path) -> Path:
    """Moves a model's weights to a file of its name that ends in ``.data``."""
    model = onnx.load(path)
    path.unlink()
    onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=0)
    return path
