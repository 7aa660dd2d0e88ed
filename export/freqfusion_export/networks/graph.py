# SPDX-License-Identifier: Apache-2.0
"""From a traced network to the fp32 graph of a file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import onnx_ir as ir
from freqfusion_runtime.model_files.manifest import Interface
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.protocol import Form
from freqfusion_export.operators.roi_align_products import PyramidRoiAlign as by_products
from freqfusion_export.passes.add_function_bodies import AddFunctionBodiesPass
from freqfusion_export.passes.fold_batch_norm_into_conv import FoldBatchNormIntoConvPass
from freqfusion_export.passes.fold_scale_into_conv import FoldScaleIntoConvPass
from freqfusion_export.passes.forbid_misread_operators import ForbidMisreadOperatorsPass
from freqfusion_export.passes.label_stages import LabelStagesPass
from freqfusion_export.passes.name_tensorrt_plugins import NameTensorRTPluginsPass
from freqfusion_export.passes.unroll_nms import UnrollNmsPass
from freqfusion_export.passes.wrap_in_image_interface import prepare_image_body

Suppression = Literal["standard", "unrolled"]
RoiAlign = Literal["standard", "products"]


@dataclass(frozen=True)
class Layout:
    """What a file is made of, where there is a choice; ``freqfusion_export.export`` says what each is for.

    Raises:
        ExportError: If one is not to be had.
    """

    interface: Interface = "image"
    suppression: Suppression = "standard"
    roi_align: RoiAlign = "standard"

    def __post_init__(self) -> None:
        if self.interface not in ("tensor", "image"):
            raise ExportError(f"interface must be 'tensor' or 'image', got {self.interface!r}")
        if self.suppression not in ("standard", "unrolled"):
            raise ExportError(f"suppression must be 'standard' or 'unrolled', got {self.suppression!r}")
        if self.roi_align not in ("standard", "products"):
            raise ExportError(f"roi_align must be 'standard' or 'products', got {self.roi_align!r}")


def file_graph(traced: ir.Model, form: Form, layout: Layout) -> ir.Model:
    """Turns the traced network into the one to write, all fp32; changes ``traced``."""
    traced.graph.name = "freqfusion"
    traced.producer_name, traced.producer_version = "freqfusion", version("freqfusion-deploy")
    _name_sizes(traced.graph, form)
    passes: list[ir.passes.PassBase] = [
        LabelStagesPass(),
        CommonSubexpressionEliminationPass(),
        FoldBatchNormIntoConvPass(),
        FoldScaleIntoConvPass(),
    ]
    if layout.interface == "image":
        passes.append(form.image_interface())
    if layout.suppression == "unrolled":
        passes.append(UnrollNmsPass())
    passes += [
        NameTensorRTPluginsPass(),
        AddFunctionBodiesPass(
            ({by_products.name: by_products} if layout.roi_align == "products" else {})
            | prepare_image_body(form.preprocessing)
        ),
        RemoveUnusedNodesPass(),
        ForbidMisreadOperatorsPass(),
    ]
    return ir.passes.Sequential(*passes)(traced).model


def _name_sizes(graph: ir.Graph, form: Form) -> None:
    """Gives the free sizes of the traced network's tensors the names that manifests and error messages use."""
    specs = {spec.name: spec for spec in (*form.inputs, *form.outputs)}
    for value in (*graph.inputs, *graph.outputs):
        spec = specs.get(str(value.name))
        if spec is not None and spec.shape:  # those of a network of the user's own were named when it was traced
            sizes = zip(value.shape or spec.shape, spec.shape, strict=True)
            value.shape = ir.Shape([traced if isinstance(traced, int) else name for traced, name in sizes])
