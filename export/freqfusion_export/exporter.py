# SPDX-License-Identifier: Apache-2.0
"""Writes a model as one portable ONNX file with its manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from freqfusion import Checkpoint
from freqfusion_runtime.files import atomic_path, make_folder
from freqfusion_runtime.model_files.manifest import (
    METADATA_KEY,
    Interface,
    Manifest,
    Precision,
    Preprocessing,
    write_sidecar,
)
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.forms import form_of
from freqfusion_export.networks.graph import Layout, RoiAlign, Suppression, file_graph
from freqfusion_export.networks.manifests import Origin, file_manifest
from freqfusion_export.networks.own_network import Dynamic, Inputs
from freqfusion_export.networks.own_task import OwnNetwork, OwnTask
from freqfusion_export.networks.trace import trace_network
from freqfusion_export.passes.constants import ConstantsAsTensorsPass
from freqfusion_export.passes.forbid_misread_operators import ForbidMisreadOperatorsPass
from freqfusion_export.precision.calibration import Calibration
from freqfusion_export.precision.eight_bits import Options
from freqfusion_export.precision.offered import precision_of
from freqfusion_export.precision.sensitivity import GroupLoss
from freqfusion_export.verification.by_kind import written_file
from freqfusion_export.weights_beside import weights_beside


def export(
    model: nn.Module,
    path: str | Path,
    *,
    inputs: Inputs | None = None,
    outputs: Sequence[str] | None = None,
    dynamic: Dynamic | None = None,
    task: OwnTask | None = None,
    classes: Sequence[str] = (),
    palette: Sequence[tuple[int, int, int]] = (),
    name: str | None = None,
    interface: Interface | None = None,
    checkpoint: Checkpoint | None = None,
    checkpoint_path: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    traced: ir.Model | None = None,
    precision: Precision = "fp32",
    keep_fp32: Sequence[str] = (),
    calibration: Calibration | None = None,
    eight_bits: Options | None = None,
    on_sensitivity: Callable[[Sequence[GroupLoss]], None] = lambda _: None,
    suppression: Suppression = "standard",
    roi_align: RoiAlign = "standard",
    check_full_size: bool = False,
    external_data: bool = False,
) -> Manifest:
    """Writes ``path`` and its manifest ``<stem>.json``, after checking that the file computes what the model does.

    Args:
        model: In evaluation mode: from ``freqfusion.create_model`` or ``freqfusion.load_model``, or any network of
            one's own, told of by ``inputs`` or ``task`` (docs/own-network.md).
        path: The ONNX file; replaced whole if it exists.
        inputs: Of one's own network: example tensors by name, as ``describe_network`` takes them.
        outputs: Names of its outputs.
        dynamic: Its free axes, such as ``{"images": {0: "batch", 2: "height: 32", 3: "width: 32"}}``.
        task: ``semantic_segmentation`` if it takes normalised images and puts out a score for each class: the file then
            has the interfaces of our own segmenters. ``network``, or None with ``inputs``: tensors in, tensors out.
        classes: Names of its classes, for that task; its ``preprocessing`` must then be given.
        palette: Their colours, RGB.
        name: The model's name, for the manifest; the class's for one's own network.
        interface: ``image`` if not given, but ``tensor`` for tensors in, tensors out. ``tensor``: ``images`` (batch, 3,
            height, width) normalised float -> ``logits`` at stride 8; ``image``: ``image`` (batch, height, width, 3)
            uint8 RGB of any size -> ``labels`` (batch, height, width). Detectors have other outputs: see
            docs/detection.md.
        checkpoint: What the weights were read from; gives classes, palette and image size. None: random weights.
        checkpoint_path: Its file, for the manifest.
        preprocessing: Overrides the official test pipeline's settings.
        traced: What ``trace_network`` made of ``model``, left as it is: tracing takes most of the time, and several
            files of one model need it once.
        precision: ``fp16`` and ``bf16`` files compute in that type, but for islands in fp32 (docs/precision.md).
        keep_fp32: Patterns of further nodes, modules or stages to keep in fp32.
        calibration: Pictures on which to look for values that the type cannot hold; for ``int8`` and ``fp8`` those that
            scales are taken from.
        eight_bits: How to quantise.
        on_sensitivity: Given the table of what each group of layers loses in 8 bits.
        suppression: How a detector drops overlapping boxes: by the ``standard`` operator NonMaxSuppression, or
            ``unrolled`` into matrices, for TensorRT-RTX, which does not have it.
        roi_align: What the body of a detector's PyramidRoiAlign is made of: the ``standard`` operator RoiAlign, or
            matrix ``products``, for TensorRT-RTX, whose parser wants a CUDA driver for RoiAlign.
        check_full_size: Check a detector on an image of the official size too, 800 x 1333, in 5 GB of memory.
        external_data: Keep the weights in a file beside the model, ``<stem>.<hash>.data``, which must go where it goes.

    Returns:
        The manifest.

    Raises:
        ExportError: If the model cannot be exported as asked.
        VerificationError: If the written file is malformed or computes something else; nothing is kept.
        freqfusion_runtime.errors.OutputError: If ``path`` cannot be written.
    """
    path = Path(path)
    own = OwnNetwork(task, inputs, outputs, dynamic, classes, palette)
    layout = Layout(interface or own.usual_interface, suppression, roi_align)
    if path.suffix != ".onnx":
        raise ExportError(f"the output must end in .onnx, got {path}")
    chosen = precision_of(precision, keep_fp32, calibration, eight_bits or Options(), on_sensitivity)
    if model.training:
        raise ExportError("the model is in training mode; call model.eval() first")
    form = own.form(model, layout.interface, preprocessing) if own.is_told else form_of(model, checkpoint)
    form.check_offers(precision)
    chosen.check()
    if preprocessing is not None:
        form = replace(form, preprocessing=preprocessing)
    make_folder(path.parent)  # before half a minute of work, not after
    network = traced.clone() if traced else trace_network(model, form.preprocessing.size_divisor, form)
    graph_model, islands = chosen.apply(file_graph(network, form, layout), form.preprocessing)
    ForbidMisreadOperatorsPass()(graph_model)
    ConstantsAsTensorsPass()(graph_model)
    name = name or (type(model).__name__ if own.is_told else "segnext_t")
    origin = Origin(name, checkpoint, Path(checkpoint_path) if checkpoint_path else None, own.is_told)
    manifest = chosen.describe(file_manifest(graph_model, model, form, origin, layout.interface), islands)
    graph_model.metadata_props[METADATA_KEY] = manifest.to_json()
    beside = weights_beside(graph_model, path) if external_data else nullcontext()
    with beside, atomic_path(path) as temporary:
        ir.save(graph_model, temporary)
        chosen.verify(written_file(form, temporary, model, layout.interface, check_full_size))
    write_sidecar(path, manifest)
    return manifest
