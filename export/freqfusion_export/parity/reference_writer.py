# SPDX-License-Identifier: Apache-2.0
"""Writes what PyTorch computes on pictures, for `freqfusion build --verify` on machines without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from freqfusion.detection import Detector
from freqfusion_runtime.agreement.noise import NoiseEntry
from freqfusion_runtime.agreement.reference_data import (
    ReferenceFacts,
    ReferenceOperator,
    ReferencePicture,
    write_reference_data,
)
from freqfusion_runtime.building.gate import alone_name
from freqfusion_runtime.commands.json_output import versions
from freqfusion_runtime.model_files.external_data import model_sha256
from freqfusion_runtime.model_files.manifest import METADATA_KEY, Manifest, TensorSpec
from freqfusion_runtime.pictures.reading import read_picture
from numpy.typing import NDArray
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.checkpoint_hash import checkpoint_sha256
from freqfusion_export.parity.pytorch_run import OperatorCall, RecordOperators, labels_of, pytorch_manifest, run_pytorch
from freqfusion_export.parity.segmenter_parity import COMPARED, OPERATORS, by_definition
from freqfusion_export.passes.name_tensorrt_plugins import DOMAIN

_HALVES = {ir.DataType.FLOAT16: torch.float16, ir.DataType.BFLOAT16: torch.bfloat16}


def save_reference(
    path: Path,
    onnx: Path,
    checkpoint: Path,
    network: nn.Module,
    manifest: Manifest,
    pictures: Sequence[Path],
    noise_floor: Sequence[NoiseEntry] = (),
) -> None:
    """Runs a network on pictures and writes what it and each of its FreqFusion operators computed.

    Args:
        path: Where, ``.npz``.
        onnx: The exported file that the numbers are to be compared with.
        checkpoint: Whose weights the network has.
        network: In evaluation mode, with the exported file's bases.
        manifest: Of the exported file.
        pictures: At least one; two of a name would be one in reports.
        noise_floor: As measured, to be printed beside.

    Raises:
        ReferenceDataError, OutputError: If the file cannot be written.
        ExportError: If the network's operators are not those of the file.
    """
    model = ir.load(onnx)
    nodes = [node for node in model.graph if node.domain == DOMAIN and node.op_type in COMPARED]
    facts = ReferenceFacts(
        onnx_file=onnx.name,
        onnx_sha256=model_sha256(onnx),
        checkpoint_file=checkpoint.name,
        checkpoint_sha256=checkpoint_sha256(checkpoint),
        manifest=pytorch_manifest(manifest, network).to_json(),
        operators=tuple(
            ReferenceOperator(str(node.name), node.op_type, tuple(map(_name, node.inputs)), _name(node.outputs[0]))
            for node in nodes
            if node.op_type in OPERATORS
        ),
        versions=versions(),
        noise_floor=tuple(noise_floor),
    )
    recorded = (_record(read_picture(picture), picture.name, onnx, network, manifest, nodes) for picture in pictures)
    write_reference_data(path, facts, operators_alone(model, manifest), recorded)


def operators_alone(model: ir.Model, manifest: Manifest) -> bytes:
    """Makes a model of an exported file's FreqFusion nodes, none connected to another; inputs and outputs are fp32."""
    inputs: dict[str, ir.Value] = {}
    outputs: list[ir.Value] = []
    graph_nodes: list[ir.Node] = []
    wanted = [node for node in model.graph if node.domain == DOMAIN and node.op_type in OPERATORS]
    for node in wanted:
        given = []
        for value in node.inputs:
            name = _name(value)
            assert value is not None
            if name not in inputs:
                sides = [side if isinstance(side, int) else None for side in value.shape or (None,) * 4]
                kind = ir.TensorType(ir.DataType.FLOAT)
                inputs[name] = ir.Value(name=name, type=kind, shape=ir.Shape(sides))
            given.append(inputs[name])
            if value.dtype in _HALVES:
                cast = ir.node("Cast", [inputs[name]], {"to": int(value.dtype)})
                graph_nodes.append(cast)
                given[-1] = cast.outputs[0]
        copy = ir.Node(node.domain, node.op_type, given, node.attributes.values(), name=node.name)
        widened = ir.node("Cast", [copy.outputs[0]], {"to": int(ir.DataType.FLOAT)})
        widened.outputs[0].name = alone_name(str(node.name))
        widened.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        widened.outputs[0].shape = ir.Shape([None] * 4)
        graph_nodes += [copy, widened]
        outputs.append(widened.outputs[0])
    graph = ir.Graph(
        list(inputs.values()), outputs, nodes=graph_nodes, opset_imports=dict(model.opset_imports), name="operators"
    )
    alone = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    axes = ("n", "c", "h", "w")
    record = replace(
        manifest,
        task="network",
        num_things=None,
        interface="tensor",
        inputs=tuple(TensorSpec(name, "float32", axes) for name in inputs),
        outputs=tuple(TensorSpec(_name(value), "float32", axes) for value in outputs),
        preprocessing=replace(manifest.preprocessing, size_divisor=1),
    )
    alone.metadata_props[METADATA_KEY] = record.to_json()
    return bytes(ir.to_proto(alone).SerializeToString())


def _record(
    photo: NDArray[Any], name: str, onnx: Path, network: nn.Module, manifest: Manifest, nodes: Sequence[ir.Node]
) -> ReferencePicture:
    with RecordOperators() as recorder:
        outputs = run_pytorch(network, manifest, photo)
    values: dict[str, NDArray[Any]] = {}
    alone: dict[str, NDArray[Any]] = {}
    for node, call in _pairs(nodes, recorder.calls, onnx):
        if node.op_type not in OPERATORS:
            values[_name(node.outputs[0])] = call.output.numpy()
            continue
        for value, tensor in zip((*node.inputs, node.outputs[0]), (*call.inputs, call.output), strict=True):
            values[_name(value)] = tensor.numpy()
        halves = [_HALVES.get(value.dtype) if value is not None and value.dtype else None for value in node.inputs]
        if any(halves):
            rounded = [t if half is None else t.to(half) for t, half in zip(call.inputs, halves, strict=True)]
            with torch.inference_mode():
                alone[str(node.name)] = by_definition(node, [tensor.double() for tensor in rounded]).float().numpy()
    labels = None if isinstance(network, Detector) else labels_of(outputs, manifest, photo)
    return ReferencePicture(name, photo, values, alone, outputs, labels)


def _pairs(
    nodes: Sequence[ir.Node], calls: Sequence[OperatorCall], onnx: Path
) -> Iterator[tuple[ir.Node, OperatorCall]]:
    """Each node with the call that it was traced from: both keep the order of computation."""
    by_operator = {
        operator: [call for call in calls if call.operator == torch_name]
        for operator, (torch_name, _) in COMPARED.items()
    }
    for node in nodes:
        waiting = by_operator[node.op_type]
        channels = None if not waiting else [tensor.shape[1] for tensor in waiting[0].inputs]
        # Whole numbers are no tensors in PyTorch.
        given = [value for value in node.inputs if value is None or value.dtype != ir.DataType.INT64]
        wanted = [None if value is None or value.shape is None else value.shape[1] for value in given]
        fits = channels is not None and len(channels) == len(wanted)
        if not fits or any(isinstance(w, int) and w != c for w, c in zip(wanted, channels or (), strict=True)):
            raise ExportError(
                f"{onnx}: node {node.name} ({node.op_type}) is none of the operators that the model calls in PyTorch; "
                "give the checkpoint that the file was exported from, or export it again"
            )
        yield node, waiting.pop(0)


def _name(value: ir.Value | None) -> str:
    return str(value.name) if value is not None else ""
