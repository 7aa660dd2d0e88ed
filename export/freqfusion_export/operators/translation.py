# SPDX-License-Identifier: Apache-2.0
"""How ``torch.ops.freqfusion.*`` become nodes of the ONNX domain ``freqfusion``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import freqfusion.ops  # noqa: F401  (defines torch.ops.freqfusion)
import onnx
import torch
from onnx.defs import OpSchema
from onnxscript import opset18 as op
from onnxscript.values import OnnxFunction

from freqfusion_export.operators import box_functions, functions

Function = OnnxFunction[Any, Any]
FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
_FLOAT_LISTS = {"window"}
_FLOATS = {"iou_threshold", "score_threshold"}
_SIZES = {"sizes"}  # inputs that are int64
_MASKS = {"Nms"}  # operators that give bool


@contextmanager
def translation_table() -> Iterator[dict[Callable[..., Any], Callable[..., Any]]]:
    """Yields the table that ``torch.onnx.export(custom_translation_table=...)`` takes.

    The operators' schemas are registered with onnx meanwhile: nodes of an unknown operator cannot be made otherwise,
    and the exporter inlines functions. They are removed afterwards, so that the file is checked as strangers will.
    """
    ops = torch.ops.freqfusion
    traced: dict[Any, Function] = {
        ops.carafe.default: functions.PaddedCarafe,
        ops.adaptive_filter.default: functions.PaddedAdaptiveFilter,
        ops.deformable_attention.default: functions.DeformableAttention,
        ops.local_similarity.default: functions.LocalSimilarity,
        ops.offset_resample.default: functions.OffsetResample,
        ops.nms.default: box_functions.Nms,
        ops.pyramid_roi_align.default: box_functions.PyramidRoiAlign,
    }
    for function in traced.values():
        onnx.defs.register_schema(_schema(function))
    try:
        yield {
            torch.ops.aten.gelu.default: _gelu,
            **{op: _node_maker(function) for op, function in traced.items()},
            ops.deformable_attention.default: _deformable_attention,
        }
    finally:
        for function in traced.values():
            onnx.defs.deregister_schema(
                _operator_of(function), functions.freqfusion.version, functions.freqfusion.domain
            )


def _node_maker(function: Function) -> Callable[..., Any]:
    """Returns a translation that makes a node: tensors first, then the attributes, in the function's own order."""
    proto = function.to_function_proto()
    make = getattr(functions.freqfusion, _operator_of(function))

    def translate(*arguments: Any) -> Any:
        tensors, values = arguments[: len(proto.input)], arguments[len(proto.input) :]
        attributes = dict(zip(proto.attribute, values, strict=False))  # arguments left out are those with a default
        if attributes.get("padding") == 0:
            del attributes["padding"]
        return make(*tensors, **attributes)

    return translate


def _operator_of(function: Function) -> str:
    padded = {body.name: operator for operator, body in functions.PADDED.items()}
    return padded.get(function.name, function.name)


def _schema(translated: Function) -> OpSchema:
    function = translated.to_function_proto()
    return OpSchema(
        _operator_of(translated),
        function.domain,
        functions.freqfusion.version,
        inputs=[OpSchema.FormalParameter(name, "tensor(int64)" if name in _SIZES else "T") for name in function.input],
        outputs=[OpSchema.FormalParameter("Y", "tensor(bool)" if function.name in _MASKS else "T")],
        type_constraints=[("T", FLOATS, "fp32, or a half type computed in fp32")],
        attributes=[OpSchema.Attribute(name, _kind(name), required=name != "padding") for name in function.attribute],
    )


def _kind(attribute: str) -> OpSchema.AttrType:
    if attribute in _FLOAT_LISTS:
        return OpSchema.AttrType.FLOATS
    return OpSchema.AttrType.FLOAT if attribute in _FLOATS else OpSchema.AttrType.INT


def _deformable_attention(value: Any, offsets: Any, logits: Any, sizes: Sequence[Any]) -> Any:
    """Makes the node, with the levels' sizes, numbers or scalars of the graph, as one tensor."""
    single: Any = op.Constant(value_ints=[1])
    numbers: list[Any] = [
        op.Constant(value_ints=[size]) if isinstance(size, int) else op.Reshape(size, single) for size in sizes
    ]
    joined = op.Concat(*numbers, axis=0)
    return functions.freqfusion.DeformableAttention(value, offsets, logits, joined, levels=len(sizes) // 2)


def _gelu(x: Any, approximate: str = "none") -> Any:
    """Writes GELU in the order of factors that ONNX Runtime 1.32 fuses into one kernel.

    The exporter's own order, ``x * (0.5 * (1 + erf))``, is not recognised: five passes over memory instead of one, a
    sixth of SegNeXt-T's profiled time (two threads of a Xeon, 2026-11).
    """
    if approximate == "tanh":  # no official model has it, others do
        return (x * 0.5) * (op.Tanh((x + x * x * x * 0.044715) * 0.7978845608028654) + 1.0)
    return (x * 0.5) * (op.Erf(x / 1.4142135623730951) + 1.0)
