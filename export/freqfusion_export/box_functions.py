# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression as ONNX functions, which the exporter writes in line: files keep standard operators alone.

Compiled by onnxscript; see ``functions`` for how to read them.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from freqfusion_export.functions import freqfusion


@script(freqfusion, default_opset=op)
def Nms(boxes, scores, iou_threshold: float, score_threshold: float, max_kept: int):
    """Marks the boxes kept. Attributes and shapes as ``torch.ops.freqfusion.nms``.

    The standard operator's list of kept boxes has a length that depends on the data; scattered into a mask it is gone.
    """
    kept = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_int=max_kept),
        op.Constant(value_float=iou_threshold),
        op.Constant(value_float=score_threshold),
    )
    index = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)  # set and box; there is one class
    zero = op.Constant(value_float=0.0)
    one = op.Constant(value_float=1.0)
    none = op.Expand(zero, op.Shape(scores))
    marks = op.Expand(one, op.Shape(index, start=0, end=1))
    return op.Cast(op.ScatterND(none, index, marks), to=9)


PARTS = (Nms,)
"""What the exporter writes in line."""
