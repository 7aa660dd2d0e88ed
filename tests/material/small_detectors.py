# SPDX-License-Identifier: Apache-2.0
"""Small ONNX detectors of all three tasks and both interfaces that find objects which the test names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, Preprocessing, TensorSpec
from onnx import TensorProto, helper, numpy_helper

SLOTS = 100
TASKS = ("detection", "instance_segmentation", "panoptic_segmentation")
THINGS = ("cat", "dog", "dragon")  # one of which COCO does not have
STUFF = ("sky", "grass")
SMALL_PLAN = Preprocessing(long_side=256, short_side=160, size_divisor=64, size_fit="pad")


@dataclass(frozen=True)
class Objects:
    """What a small detector finds in every picture.

    Args:
        boxes: x1 y1 x2 y2 as shares of the picture, or of the resized picture without padding.
        scores, labels: One a box.
        masks: ``(N, 28, 28)`` logits; all inside by default.
        semantic: ``(3, 4, 4)`` logits, stretched over the network's input by nearest neighbour; sky above grass by
            default.
        answers: Raw outputs that replace those made of the above, batch included.
    """

    boxes: Sequence[Sequence[float]] = ((0.1, 0.2, 0.6, 0.9), (0.5, 0.0, 1.0, 0.5))
    scores: Sequence[float] = (0.9, 0.7)
    labels: Sequence[int] = (1, 0)
    masks: np.ndarray | None = None
    semantic: np.ndarray | None = None
    answers: dict[str, np.ndarray] = field(default_factory=dict)


def manifest(task: str = "detection", interface: str = "tensor", **changes: Any) -> Manifest:
    """The manifest of :func:`write_detector`."""
    is_panoptic, image = task == "panoptic_segmentation", interface == "image"
    inputs = (
        (TensorSpec("image", "uint8", ("batch", "height", "width", 3)),)
        if image
        else (
            TensorSpec("images", "float32", ("batch", 3, "height", "width")),
            TensorSpec("image_sizes", "int64", ("batch", 2)),
        )
    )
    outputs = [
        TensorSpec("num", "int64", ("batch",)),
        TensorSpec("boxes", "float32", ("batch", SLOTS, 4)),
        TensorSpec("scores", "float32", ("batch", SLOTS)),
        TensorSpec("labels", "int64", ("batch", SLOTS)),
    ]
    if task != "detection":
        outputs.append(TensorSpec("masks", "float32", ("batch", SLOTS, 28, 28)))
    if is_panoptic:
        outputs.append(TensorSpec("semantic", "float32", ("batch", len(STUFF) + 1, "height/4", "width/4")))
    plain = Manifest(
        model={"detection": "faster_rcnn_r50", "instance_segmentation": "mask_rcnn_r50"}.get(task, "panoptic_fpn_r50"),
        task=task,
        interface=interface,
        precision="fp32",
        opset=18,
        num_classes=len(THINGS) + (len(STUFF) if is_panoptic else 0),
        num_things=len(THINGS) if is_panoptic else None,
        classes=THINGS + (STUFF if is_panoptic else ()),
        preprocessing=SMALL_PLAN,
        inputs=inputs,
        outputs=tuple(outputs),
        weights="random",
    )
    return replace(plain, **changes)


def write_detector(
    path: Path,
    task: str = "detection",
    interface: str = "tensor",
    objects: Objects | None = None,
    **changes: Any,
) -> Path:
    """Writes a network that finds the same objects in every picture, boxes scaled to its size.

    Args:
        path: Where.
        task, interface: Of which kind.
        objects: What it finds.
        changes: To the manifest.
    """
    objects = objects or Objects()
    record = manifest(task, interface, **changes)
    nodes, constants = _boxes(interface, objects)
    answers = _answers(objects)
    if task == "panoptic_segmentation":
        answers.pop("semantic")
        nodes += _semantic(interface, record.preprocessing)
        constants["semantic_cells"] = _semantic_cells(objects)
    for name, value in answers.items():
        if any(tensor.name == name for tensor in record.outputs):
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name)))
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}
    ports = {
        kind: [helper.make_tensor_value_info(t.name, types[t.dtype], shape(t)) for t in tensors]
        for kind, tensors, shape in (
            ("inputs", record.inputs, lambda t: t.shape),
            ("outputs", record.outputs, lambda t: [None] * len(t.shape)),
        )
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", ports["inputs"], ports["outputs"], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    helper.set_model_props(model, {METADATA_KEY: record.to_json()})
    onnx.save(model, path)
    return path


def _answers(objects: Objects) -> dict[str, np.ndarray]:
    count = len(objects.scores)
    scores, labels = np.zeros((1, SLOTS), np.float32), np.full((1, SLOTS), -1, np.int64)
    scores[0, :count], labels[0, :count] = objects.scores, objects.labels
    masks = np.zeros((1, SLOTS, 28, 28), np.float32)
    masks[0, :count] = 5.0 if objects.masks is None else objects.masks
    answers = {"num": np.array([count], np.int64), "scores": scores, "labels": labels, "masks": masks}
    return {**answers, "semantic": np.zeros(0), **objects.answers}


def _boxes(interface: str, objects: Objects) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """boxes = shares x (width, height, width, height)."""
    shares = np.zeros((1, SLOTS, 4), np.float32)
    shares[0, : len(objects.boxes)] = np.reshape(objects.boxes, (-1, 4))
    if "boxes" in objects.answers:
        return [], {}
    constants = {"shares": shares, "order": np.array([1, 0, 1, 0])}
    if interface == "image":
        nodes = [
            helper.make_node("Shape", ["image"], ["sides"], start=1, end=3),
            helper.make_node("Gather", ["sides", "order"], ["limits"]),
        ]
    else:
        nodes = [helper.make_node("Gather", ["image_sizes", "order"], ["limits"], axis=1)]
    nodes += [
        helper.make_node("Cast", ["limits"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["shares", "scale"], ["boxes"]),
    ]
    return nodes, constants


def _semantic_cells(objects: Objects) -> np.ndarray:
    if objects.semantic is not None:
        return objects.semantic[None].astype(np.float32)
    cells = np.zeros((1, len(STUFF) + 1, 4, 4), np.float32)
    cells[0, 0, :2], cells[0, 1, 2:] = 3.0, 3.0
    return cells


def _semantic(interface: str, plan: Preprocessing) -> list[onnx.NodeProto]:
    """Stretches the cells to a quarter of the network's input, which the image interface's small model is told."""
    size = ["semantic_cells", "", "", "size"]
    ends = [helper.make_node("Resize", size, ["semantic"], mode="nearest")]
    head = helper.make_node("Constant", [], ["head"], value_ints=[1, len(STUFF) + 1])
    if interface == "image":
        # A square picture ends in the plan's short side, rounded up.
        side = -(-plan.short_side // plan.size_divisor) * plan.size_divisor // 4
        quarter = helper.make_node("Constant", [], ["quarter"], value_ints=[side, side])
        return [head, quarter, helper.make_node("Concat", ["head", "quarter"], ["size"], axis=0), *ends]
    return [
        head,
        helper.make_node("Constant", [], ["four"], value_ints=[4]),
        helper.make_node("Shape", ["images"], ["sides"], start=2, end=4),
        helper.make_node("Div", ["sides", "four"], ["quarter"]),
        helper.make_node("Concat", ["head", "quarter"], ["size"], axis=0),
        *ends,
    ]
