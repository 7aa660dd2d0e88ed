# SPDX-License-Identifier: Apache-2.0
"""Which layers go to 8 bits, and with which scales: calibration by histograms of activations."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime
from freqfusion_runtime.sessions.kernel_library import usable_library
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

from freqfusion_export.errors import ExportError
from freqfusion_export.passes.insert_quantization import FP8_LARGEST, InsertQuantizationPass, Scale
from freqfusion_export.passes.label_stages import MODULE_KEY
from freqfusion_export.precision.islands import nodes_matching

Calibrator = Literal["entropy", "percentile"]
Target = Literal["tensorrt", "onnxruntime"]
CALIBRATORS = ("entropy", "percentile")
TARGETS = ("tensorrt", "onnxruntime")

# FreqFusion's sampling: what the offsets are predicted by. Similarity, filters' normalisers, normalisation, softmax and
# the factorisation have no convolution of their own and so stay in fp32 anyway.
NEVER = ("*.dysampler.*",)
PERCENTILE = 99.99  # of all values of a tensor lie inside its range; ONNX Runtime's collector cuts each side


@dataclass(frozen=True)
class Quantization:
    """A choice of layers and the scales of the values around them.

    Attributes:
        nodes: Names of the convolutions in 8 bits, in the graph's order, with the layer group of each.
        scales: By value.
        dtype: Of activations.
        target: Whom the file is for: ``tensorrt`` gets symmetric activations and inputs quantised only; ``onnxruntime``
            uint8 activations with a zero point, and results quantised too, which its fusions need.
        weight_bits: 7 for processors without VNNI.
    """

    nodes: Mapping[str, str]
    scales: Mapping[str, Scale]
    dtype: ir.DataType
    target: Target
    weight_bits: int

    def applied(self, model: ir.Model, nodes: Sequence[str] | None = None) -> ir.Model:
        """Returns a copy of an fp32 network with these layers, or only ``nodes`` of them, in 8 bits."""
        copy = ir.from_proto(ir.to_proto(model))
        chosen = list(self.nodes) if nodes is None else nodes
        outputs = self.target == "onnxruntime"
        return InsertQuantizationPass(chosen, self.scales, self.dtype, outputs, self.weight_bits)(copy).model


def plan(
    model: ir.Model,
    precision: str,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    calibrator: Calibrator = "entropy",
    target: Target = "tensorrt",
    keep: Sequence[str] = (),
    weight_bits: int = 8,
) -> Quantization:
    """Chooses layers and measures ranges.

    Args:
        model: All fp32; not changed.
        precision: ``int8`` or ``fp8``.
        feeds: Inputs by name, picture by picture.
        calibrator: ``entropy`` cuts a range where the quantised histogram is nearest to the whole one; ``percentile``
            where all but a fixed share of the values is inside.
        target: See ``Quantization``. fp8 is for TensorRT in either case.
        keep: Patterns of node, module and stage names that stay in fp32.
        weight_bits: 8, or 7 for processors without VNNI.

    Raises:
        ExportError: If nothing is left to quantise or a pattern matches nothing.
    """
    kept = {id(node) for pattern in NEVER for node in nodes_matching(model.graph, pattern)}
    for pattern in keep:
        matched = nodes_matching(model.graph, pattern)
        if not matched:
            raise ExportError(
                f"no node, module or stage is called {pattern!r}; `freqfusion parity --layers` lists them"
            )
        kept |= {id(node) for node in matched}
    nodes = [node for node in model.graph if node.op_type == "Conv" and id(node) not in kept and _has_weight(node)]
    if not nodes:
        raise ExportError(f"{precision}: no convolution is left to quantise; keep fewer of them in fp32")
    is_signed = precision == "fp8" or target == "tensorrt"
    values = dict.fromkeys(str(value.name) for node in nodes for value in (node.inputs[0], *node.outputs) if value)
    ranges = _ranges(model, list(values), feeds, calibrator, is_symmetric=is_signed)
    dtype = ir.DataType.INT8 if is_signed else ir.DataType.UINT8
    if precision == "fp8":
        dtype, target = ir.DataType.FLOAT8E4M3FN, "tensorrt"
    scales = {name: _scale(*bounds, dtype) for name, bounds in ranges.items()}
    groups = {str(node.name): group_of(node) for node in nodes}
    return Quantization(groups, scales, dtype, target, weight_bits)


def group_of(node: ir.Node) -> str:
    """The layer group a node belongs to: ``backbone.block2``, ``decode_head.freqfusions.0``, ``decode_head.align``."""
    parts = (node.metadata_props.get(MODULE_KEY) or node.name or "").split(".")
    return ".".join(parts[: 3 if len(parts) > 2 and parts[2].isdigit() and parts[0] != "backbone" else 2])


def _has_weight(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.const_value is not None and not weight.is_graph_input()


def _scale(low: float, high: float, dtype: ir.DataType) -> Scale:
    largest = max(abs(low), abs(high)) or 1.0
    if dtype == ir.DataType.FLOAT8E4M3FN:
        return Scale(largest / FP8_LARGEST)
    if dtype == ir.DataType.INT8:
        return Scale(largest / 127)
    low, high = min(low, 0.0), max(high, 0.0)  # zero, and so padding, must be a number of the type
    scale = (high - low or 1.0) / 255
    return Scale(scale, int(np.clip(round(-low / scale), 0, 255)))


def _ranges(
    model: ir.Model,
    names: Sequence[str],
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    calibrator: Calibrator,
    is_symmetric: bool,
) -> dict[str, tuple[float, float]]:
    """Measures the range of each value by ONNX Runtime's histogram collector, which prints, hence the redirection."""
    probed = ir.from_proto(ir.to_proto(model))
    known = {value.name for value in (*probed.graph.outputs, *probed.graph.inputs)}
    values = {value.name: value for node in probed.graph for value in node.outputs}
    probed.graph.outputs.extend(values[name] for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if (library := usable_library()) is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(ir.to_proto(probed).SerializeToString(), options)
    bins = 128 if calibrator == "entropy" else 2048
    collector = HistogramCollector(calibrator, is_symmetric, bins, 128, PERCENTILE, "same")
    inputs = [name for name in names if name in {value.name for value in probed.graph.inputs}]
    wanted = [name for name in names if name not in inputs]
    with contextlib.redirect_stdout(io.StringIO()):
        for feed in feeds:
            arrays = dict(zip(wanted, session.run(wanted, dict(feed)), strict=True))
            collector.collect({**arrays, **{name: feed[name] for name in inputs}})
        found = collector.compute_collection_result()
    return {name: (float(bounds[0]), float(bounds[1])) for name, bounds in found.items()}
