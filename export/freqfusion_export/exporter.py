# SPDX-License-Identifier: Apache-2.0
"""Writes a model as one portable ONNX file with its manifest."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast

import onnx_ir as ir
import torch
from freqfusion import Checkpoint
from freqfusion_runtime.files import atomic_path, make_folder
from freqfusion_runtime.model_files.manifest import (
    METADATA_KEY,
    KeptInFp32,
    Manifest,
    Preprocessing,
    TensorSpec,
    write_sidecar,
)
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)
from torch import nn

from freqfusion_export.checkpoint_hash import checkpoint_sha256
from freqfusion_export.errors import ExportError
from freqfusion_export.networks.forms import Form, form_of, name_sizes
from freqfusion_export.networks.trace import trace_network
from freqfusion_export.operators.roi_align_products import PyramidRoiAlign as by_products
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
from freqfusion_export.passes.unroll_nms import UnrollNmsPass
from freqfusion_export.precision.assignment import assign_half
from freqfusion_export.precision.calibration import Calibration
from freqfusion_export.precision.eight_bits import EIGHT_BITS, Options, checked_request, quantise
from freqfusion_export.precision.sensitivity import GroupLoss
from freqfusion_export.verification.verify import verify, verify_on_pictures

Interface = Literal["tensor", "image"]
Suppression = Literal["standard", "unrolled"]
RoiAlign = Literal["standard", "products"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


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
    precision: Precision = "fp32",
    keep_fp32: Sequence[str] = (),
    calibration: Calibration | None = None,
    eight_bits: Options | None = None,
    on_sensitivity: Callable[[Sequence[GroupLoss]], None] = lambda _: None,
    suppression: Suppression = "standard",
    roi_align: RoiAlign = "standard",
    check_full_size: bool = False,
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
    if suppression not in ("standard", "unrolled"):
        raise ExportError(f"suppression must be 'standard' or 'unrolled', got {suppression!r}")
    if roi_align not in ("standard", "products"):
        raise ExportError(f"roi_align must be 'standard' or 'products', got {roi_align!r}")
    if path.suffix != ".onnx":
        raise ExportError(f"the output must end in .onnx, got {path}")
    if precision not in PRECISIONS:
        raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp32" and (keep_fp32 or calibration is not None):
        raise ExportError("an fp32 file has nothing to keep in fp32 or to calibrate; name another precision")
    if model.training:
        raise ExportError("the model is in training mode; call model.eval() first")
    form = form_of(model, checkpoint)
    if precision in EIGHT_BITS and form.task != "semantic_segmentation":
        raise ExportError(
            f"{precision} is offered for semantic segmenters, and this is for {form.task}: layers are weighed by the "
            "labels they lose, and boxes have no such measure yet. Export it as fp32 or fp16."
        )
    if precision == "bf16" and form.task != "semantic_segmentation":
        raise ExportError(
            f"bf16 is offered for semantic segmenters, and this is for {form.task}: with 8 bits in a number, half "
            "of the boxes move by more than a tenth of their size. Export it as fp32 or fp16."
        )
    if precision in EIGHT_BITS:
        checked_request(precision, calibration, eight_bits or Options())
    make_folder(path.parent)  # before half a minute of work, not after
    settings = preprocessing or form.preprocessing
    graph_model = _graph_model(
        traced.clone() if traced else trace_network(model, settings.size_divisor),
        interface,
        settings,
        form,
        suppression,
        roi_align,
    )
    islands: tuple[KeptInFp32, ...] = ()
    if precision in EIGHT_BITS:
        graph_model, islands, table = quantise(graph_model, precision, calibration, settings, keep_fp32, eight_bits)
        on_sensitivity(table)
    elif precision in ("fp16", "bf16"):
        islands = assign_half(graph_model, precision, keep=keep_fp32, calibration=calibration, preprocessing=settings)
    ForbidMisreadOperatorsPass()(graph_model)
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
    manifest = replace(
        manifest,
        precision=precision,
        islands=islands,
        calibration_method=_method(precision, eight_bits) if calibration else None,
        calibration_pictures=len(calibration.pictures) if calibration else 0,
        calibration_sha256=calibration.sha256 if calibration else None,
    )
    graph_model.metadata_props[METADATA_KEY] = manifest.to_json()
    with atomic_path(path) as temporary:
        ir.save(graph_model, temporary)
        if precision in EIGHT_BITS and calibration is not None:
            drop = (eight_bits or Options()).max_drop
            verify_on_pictures(temporary, model, interface, settings, precision, calibration, drop)
        else:
            verify(temporary, model, interface, settings, precision, check_full_size)
    write_sidecar(path, manifest)
    return manifest


def _method(precision: str, options: Options | None) -> str:
    if precision not in EIGHT_BITS:
        return "range"
    options = options or Options()
    return f"{options.calibrator}, for {options.target}"


def _graph_model(
    traced: ir.Model,
    interface: Interface,
    settings: Preprocessing,
    form: Form,
    suppression: Suppression,
    roi_align: RoiAlign,
) -> ir.Model:
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
    if suppression == "unrolled":
        passes.append(UnrollNmsPass())
    passes += [
        NameTensorRTPluginsPass(),
        AddFunctionBodiesPass({by_products.name: by_products} if roi_align == "products" else {}),
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
        opset=graph_model.opset_imports[""],
        num_classes=form.num_classes,
        num_things=form.num_things,
        inputs=tuple(_spec(value) for value in graph_model.graph.inputs),
        outputs=tuple(_spec(value) for value in graph_model.graph.outputs),
        weights="checkpoint" if checkpoint is not None and checkpoint.weights == "trained" else "random",
        classes=form.classes,
        palette=form.palette,
        preprocessing=settings,
        nmf_bases_seed=cast("int | None", bases_seeds[0]) if bases_seeds else None,
        weights_file=checkpoint_path.name if checkpoint_path else None,
        weights_sha256=checkpoint_sha256(checkpoint_path) if checkpoint_path else None,
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
