# SPDX-License-Identifier: Apache-2.0
"""What detectors do with boxes, as ONNX functions of standard operators.

Compiled by onnxscript; see ``functions`` for how to read them.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from freqfusion_export.operators.functions import freqfusion


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


@script(freqfusion, default_opset=op)
def AlignOnLevel(X, boxes, images, mine, output_size: int):
    """Averages X (N, C, H, W) over those of ``boxes`` (R, 4), in pixels of X, that are ``mine`` (R, 1); fp32.

    The others become boxes without area, which cost nothing and give zeros.
    """
    return op.RoiAlign(
        op.Cast(X, to=1),
        op.Where(mine, boxes, op.Constant(value_float=0.0)),
        images,
        coordinate_transformation_mode="half_pixel",
        mode="avg",
        output_height=output_size,
        output_width=output_size,
        sampling_ratio=0,
        spatial_scale=1.0,
    )


@script(freqfusion, default_opset=op)
def PyramidRoiAlign(X0, X1, X2, X3, boxes, output_size: int, finest_stride: int, finest_scale: int):
    """Averages a pyramid over boxes. Attributes and shapes as ``torch.ops.freqfusion.pyramid_roi_align``.

    Every level is asked for every box, so that no shape depends on how many boxes a level has. Boxes are divided by the
    levels' strides here: an attribute of a function cannot be computed with.
    """
    rest = op.Constant(value_ints=[-1])
    n = op.Shape(boxes, start=0, end=1)
    m = op.Shape(boxes, start=1, end=2)
    each = op.Range(op.Constant(value_int=0), op.Squeeze(n), op.Constant(value_int=1))
    column = op.Unsqueeze(each, op.Constant(value_ints=[1]))
    images = op.Reshape(op.Expand(column, op.Concat(n, m, axis=0)), rest)
    corners = op.Reshape(boxes, op.Constant(value_ints=[-1, 4]))
    x1, y1, x2, y2 = op.Split(corners, num_outputs=4, axis=1)
    scale = op.Cast(op.Constant(value_int=finest_scale), to=1)
    relative = op.Sqrt((x2 - x1) * (y2 - y1)) / scale + op.Constant(value_float=1e-6)
    above0 = op.GreaterOrEqual(relative, op.Constant(value_float=2.0))
    above1 = op.GreaterOrEqual(relative, op.Constant(value_float=4.0))
    above2 = op.GreaterOrEqual(relative, op.Constant(value_float=8.0))
    half = op.Constant(value_float=0.5)
    boxes0 = corners / op.Cast(op.Constant(value_int=finest_stride), to=1)
    boxes1 = boxes0 * half
    boxes2 = boxes1 * half
    boxes3 = boxes2 * half
    part0 = AlignOnLevel(X0, boxes0, images, op.Not(above0), output_size=output_size)
    part1 = AlignOnLevel(X1, boxes1, images, op.And(above0, op.Not(above1)), output_size=output_size)
    part2 = AlignOnLevel(X2, boxes2, images, op.And(above1, op.Not(above2)), output_size=output_size)
    part3 = AlignOnLevel(X3, boxes3, images, above2, output_size=output_size)
    return op.CastLike(part0 + part1 + part2 + part3, X0)


OPERATORS = (PyramidRoiAlign,)
"""What the exporter writes as nodes."""

PARTS = (Nms, AlignOnLevel)
"""What it writes in line: suppression, so that files keep the standard operator alone, and what others share."""
