# SPDX-License-Identifier: Apache-2.0
"""Writes a model as one portable ONNX file with its manifest."""

from __future__ import annotations

import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast

import onnx_ir as ir
import torch
from freqfusion import Checkpoint
from freqfusion_runtime.files import atomic_path, make_folder, sha256_of
from freqfusion_runtime.manifest import METADATA_KEY, Manifest, Preprocessing, TensorSpec, write_sidecar
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.forms import Form, form_of, name_sizes
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_export.passes.fold_batch_norm_into_conv import FoldBatchNormIntoConvPass
from freqfusion_export.passes.fold_scale_into_conv import FoldScaleIntoConvPass
from freqfusion_export.passes.forbid_misread_operators import ForbidMisreadOperatorsPass
from freqfusion_export.passes.label_stages import LabelStagesPass
from freqfusion_export.passes.name_tensorrt_plugins import (
    DOMAIN,
    PLUGIN_NAMESPACE,
    PLUGIN_VERSION,
    NameTensorRTPluginsPass,
)
from freqfusion_export.trace import OPSET, trace_network
from freqfusion_export.verify import verify

Interface = Literal["tensor", "image"]


def export(
    model: nn.Module,
    path: str | Path,
    *,
    name: str = "segnext_t",
    interface: Interface = "image",
    checkpoint: Checkpoint | None = None,
    checkpoint_path: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    traced: ir.Model | None = None,
) -> Manifest:
    """Writes ``path`` and its manifest ``<stem>.json``, after checking that the file computes what the model does.

    Args:
        model: In evaluation mode, e.g. from ``freqfusion.create_model`` or ``freqfusion.load_model``.
        path: The ONNX file; replaced whole if it exists.
        name: The model's name, for the manifest.
        interface: ``tensor``: ``images`` (batch, 3, height, width) normalised float -> ``logits`` at stride 8;
            ``image``: ``image`` (batch, height, width, 3) uint8 RGB of any size -> ``labels`` (batch, height, width).
            Detectors have other outputs: see docs/detection.md.
        checkpoint: What the weights were read from; gives classes, palette and image size. None: random weights.
        checkpoint_path: Its file, for the manifest.
        preprocessing: Overrides the official test pipeline's settings.
        traced: What ``trace_network`` made of ``model``, left as it is: tracing takes most of the time, and several
            files of one model need it once.

    Returns:
        The manifest.

    Raises:
        ExportError: If the model cannot be exported as asked.
        VerificationError: If the written file is malformed or computes something else; nothing is kept.
        freqfusion_runtime.errors.OutputError: If ``path`` cannot be written.
    """
    path = Path(path)
    if interface not in ("tensor", "image"):
        raise ExportError(f"interface must be 'tensor' or 'image', got {interface!r}")
    if path.suffix != ".onnx":
        raise ExportError(f"the output must end in .onnx, got {path}")
    if model.training:
        raise ExportError("the model is in training mode; call model.eval() first")
    form = form_of(model, checkpoint)
    make_folder(path.parent)  # before half a minute of work, not after
    settings = preprocessing or form.preprocessing
    graph_model = _graph_model(
        traced.clone() if traced else trace_network(model, settings.size_divisor), interface, settings, form
    )
    manifest = _manifest(
        graph_model,
        model,
        name,
        interface,
        settings,
        form,
        checkpoint,
        Path(checkpoint_path) if checkpoint_path else None,
    )
    graph_model.metadata_props[METADATA_KEY] = manifest.to_json()
    with atomic_path(path) as temporary:
        ir.save(graph_model, temporary)
        verify(temporary, model, interface, settings)
    write_sidecar(path, manifest)
    return manifest


def _graph_model(traced: ir.Model, interface: Interface, settings: Preprocessing, form: Form) -> ir.Model:
    """Turns the traced network into the one to write; changes ``traced``."""
    traced.graph.name = "freqfusion"
    traced.producer_name, traced.producer_version = "freqfusion", version("freqfusion-deploy")
    name_sizes(traced.graph)
    passes: list[ir.passes.PassBase] = [
        LabelStagesPass(),
        CommonSubexpressionEliminationPass(),
        FoldBatchNormIntoConvPass(),
        FoldScaleIntoConvPass(),
    ]
    if interface == "image":
        passes.append(form.image_interface(settings))
    passes += [
        NameTensorRTPluginsPass(),
        AddFunctionBodiesPass(),
        RemoveUnusedNodesPass(),
        ForbidMisreadOperatorsPass(),
    ]
    return ir.passes.Sequential(*passes)(traced).model


def _manifest(
    graph_model: ir.Model,
    model: nn.Module,
    name: str,
    interface: Interface,
    settings: Preprocessing,
    form: Form,
    checkpoint: Checkpoint | None,
    checkpoint_path: Path | None,
) -> Manifest:
    operators = Counter(node.op_type for node in graph_model.graph if node.domain == DOMAIN)
    bases_seeds = [module.bases_seed for module in model.modules() if hasattr(module, "bases_seed")]
    return Manifest(
        model=name,
        task=form.task,
        interface=interface,
        precision="fp32",
        opset=OPSET,
        num_classes=form.num_classes,
        num_things=form.num_things,
        inputs=tuple(_spec(value) for value in graph_model.graph.inputs),
        outputs=tuple(_spec(value) for value in graph_model.graph.outputs),
        weights="checkpoint" if checkpoint is not None and checkpoint.weights == "trained" else "random",
        classes=form.classes,
        palette=form.palette,
        preprocessing=settings,
        nmf_bases_seed=int(cast(int, bases_seeds[0])) if bases_seeds else None,
        weights_file=checkpoint_path.name if checkpoint_path else None,
        weights_sha256=sha256_of(checkpoint_path) if checkpoint_path else None,
        operators=dict(sorted(operators.items())),
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
        versions={
            "freqfusion-deploy": version("freqfusion-deploy"),
            "onnx": version("onnx"),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    )


def _spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorSpec(value.name, value.dtype.numpy().name, shape)
