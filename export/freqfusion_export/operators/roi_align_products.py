# SPDX-License-Identifier: Apache-2.0
"""RoIAlign over a pyramid as matrix products, for TensorRT-RTX, whose parser wants a CUDA driver for RoiAlign.

Compiled by onnxscript; see ``functions`` for how to read them.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from onnxscript import opset18 as op
from onnxscript import script

from freqfusion_export.operators.functions import freqfusion


@script(freqfusion, default_opset=op)
def RowsOfPixels(X):
    """Turns X (N, C, H, W) into (N*H*W, C), fp32."""
    last = op.Transpose(op.Cast(X, to=1), perm=[0, 2, 3, 1])
    return op.Reshape(last, op.Concat(op.Constant(value_ints=[-1]), op.Shape(X, start=1, end=2), axis=0))


@script(freqfusion, default_opset=op)
def Window(low, high, size, output_size: int):
    """The pixels that sample points of boxes touch: ``low``, ``high`` and the axis's ``size`` in pixels, all (R, 1).

    Returns the first pixel and the number of pixels, int64; the cells' length, the number of points of a cell, and the
    distance of points, fp32; all (R, 1).
    """
    one = op.Constant(value_int=1)
    extent = high - low
    length = extent / op.Cast(op.Constant(value_int=output_size), to=1)
    points = op.Max(op.Ceil(length), op.Constant(value_float=0.0))
    step = length / op.Max(points, op.Constant(value_float=1.0))
    half = step * op.Constant(value_float=0.5)
    zero = op.Constant(value_int=0)
    last = size - one
    first = op.Min(op.Max(op.Cast(op.Floor(low + half), to=7), zero), last)
    end = op.Min(op.Max(op.Cast(op.Floor(high - half), to=7) + one, first), last)
    return first, end - first + one, length, points, step


@script(freqfusion, default_opset=op)
def AxisWeights(pixel, low, length, points, step, size, output_size: int):
    """Weighs pixels (R, P) for each cell of an axis: (R, K, P); the other arguments are (R, 1), as ``Window``'s.

    A cell's points are evenly spaced, so those within a pixel's reach on either side of it need not be visited: their
    number follows from the reach, and the mean of their distances from their number. Beyond the first and the last
    pixel all points within reach count whole.
    """
    one = op.Constant(value_float=1.0)
    half = op.Constant(value_float=0.5)
    none = op.Constant(value_float=0.0)
    middle = op.Constant(value_ints=[1])
    cells = op.Range(op.Constant(value_int=0), op.Constant(value_int=output_size), op.Constant(value_int=1))
    cell = op.Unsqueeze(op.Cast(cells, to=1), op.Constant(value_ints=[0, 2]))  # (1, K, 1)
    start = op.Unsqueeze(low, middle) + cell * op.Unsqueeze(length, middle)  # (R, K, 1)
    count = op.Unsqueeze(points, middle)
    distance = op.Unsqueeze(op.Max(step, op.Constant(value_float=1e-6)), middle)
    at = op.Unsqueeze(op.Cast(pixel, to=1), middle) - start  # (R, K, P)
    before = op.Min(op.Max(op.Floor((at - one) / distance + half), none), count)
    until = op.Min(op.Max(op.Floor(at / distance + half), none), count)
    after = op.Min(op.Max(op.Floor((at + one) / distance + half), none), count)
    mean_left = (before + until) * half * distance
    mean_right = (until + after) * half * distance
    is_first = op.Unsqueeze(op.Equal(pixel, op.Constant(value_int=0)), middle)
    is_last = op.Unsqueeze(op.Equal(pixel, size - op.Constant(value_int=1)), middle)
    left = (until - before) * op.Where(is_first, one, one - at + mean_left)
    right = (after - until) * op.Where(is_last, one, one + at - mean_right)
    return (left + right) / op.Max(count, one)


@script(freqfusion, default_opset=op)
def WeighedPixels(rows, index, vertical, horizontal):
    """Sums rows[index] (R, P, C) weighed by vertical (R, K, P) x horizontal (R, K, P): (R, K*K, C)."""
    products = op.Unsqueeze(vertical, op.Constant(value_ints=[2])) * op.Unsqueeze(
        horizontal, op.Constant(value_ints=[1])
    )
    slots = op.Shape(index, start=1, end=2)
    keep = op.Constant(value_ints=[0])
    weights = op.Reshape(products, op.Concat(keep, op.Constant(value_ints=[-1]), slots, axis=0))
    return op.MatMul(weights, op.Gather(rows, index, axis=0))


@script(freqfusion, default_opset=op)
def PyramidRoiAlign(X0, X1, X2, X3, boxes, output_size: int, finest_stride: int, finest_scale: int):
    """Averages a pyramid over boxes. Attributes and shapes as ``torch.ops.freqfusion.pyramid_roi_align``.

    The pixels that a box touches, on its own level, are gathered into P slots and weighed: one product of (K*K, P) by
    (P, C) a box. P is what the largest window can have. A box on a level but the coarsest has an area below A = reach x
    reach of its pixels, and touches at most 3 more along each axis; with a side of S, the map's longest, that is less
    than A + 3 * reach + 3 * S + 9. On the coarsest it may be the whole map.
    """
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    first = op.Constant(value_ints=[0])
    rest = op.Constant(value_ints=[-1])
    column = op.Constant(value_ints=[1])
    n = op.Shape(boxes, start=0, end=1)
    m = op.Shape(boxes, start=1, end=2)
    each = op.Unsqueeze(op.Range(zero, op.Squeeze(n), one), column)
    images = op.Reshape(op.Expand(each, op.Concat(n, m, axis=0)), op.Constant(value_ints=[-1, 1]))
    corners = op.Reshape(boxes, op.Constant(value_ints=[-1, 4]))
    x1, y1, x2, y2 = op.Split(corners, num_outputs=4, axis=1)
    scale = op.Cast(op.Constant(value_int=finest_scale), to=1)
    relative = op.Sqrt((x2 - x1) * (y2 - y1)) / scale + op.Constant(value_float=1e-6)
    edges = op.Constant(value_floats=[2.0, 4.0, 8.0])
    level = op.ReduceSum(op.Cast(op.GreaterOrEqual(relative, edges), to=7), column, keepdims=1)  # (R, 1)

    heights = op.Concat(
        op.Shape(X0, start=2, end=3), op.Shape(X1, start=2, end=3), op.Shape(X2, start=2, end=3),
        op.Shape(X3, start=2, end=3), axis=0,
    )  # fmt: skip
    widths = op.Concat(
        op.Shape(X0, start=3, end=4), op.Shape(X1, start=3, end=4), op.Shape(X2, start=3, end=4),
        op.Shape(X3, start=3, end=4), axis=0,
    )  # fmt: skip
    area0, area1, area2, area3 = op.Split(heights * widths, num_outputs=4, axis=0)
    bases = op.Concat(first, area0, area0 + area1, area0 + area1 + area2, axis=0) * n
    height = op.Gather(heights, level, axis=0)
    width = op.Gather(widths, level, axis=0)

    fine = op.Cast(op.Constant(value_int=finest_stride), to=1)
    shrink = op.Gather(op.Constant(value_floats=[1.0, 0.5, 0.25, 0.125]), level, axis=0)
    half = op.Constant(value_float=0.5)
    left = x1 / fine * shrink - half
    right = x2 / fine * shrink - half
    top = y1 / fine * shrink - half
    bottom = y2 / fine * shrink - half
    first_row, rows_used, tall, points_y, step_y = Window(top, bottom, height, output_size=output_size)
    first_column, columns_used, wide, points_x, step_x = Window(left, right, width, output_size=output_size)

    two = op.Constant(value_ints=[2])
    three = op.Constant(value_ints=[3])
    finest = op.Constant(value_int=finest_scale)
    reach = op.Reshape(finest, rest) * two / op.Reshape(op.Constant(value_int=finest_stride), rest) + column
    longest = op.Max(op.Shape(X0, start=2, end=3), op.Shape(X0, start=3, end=4))
    window = reach * reach + three * (reach + longest + three)
    slots = op.Max(op.Min(window, area0), area3)
    slot = op.Unsqueeze(op.Range(zero, op.Squeeze(slots), one), first)  # (1, P)
    row = slot / columns_used  # (R, P)
    is_used = op.Cast(op.Unsqueeze(op.Less(row, rows_used), column), to=1)
    y = first_row + op.Min(row, rows_used - one)
    x = first_column + slot - row * columns_used
    index = op.Gather(bases, level, axis=0) + (images * height + y) * width + x
    vertical = AxisWeights(y, top, tall, points_y, step_y, height, output_size=output_size) * is_used
    horizontal = AxisWeights(x, left, wide, points_x, step_x, width, output_size=output_size)

    pixels = op.Concat(RowsOfPixels(X0), RowsOfPixels(X1), RowsOfPixels(X2), RowsOfPixels(X3), axis=0)
    # In parts, since the gathered pixels of 1000 boxes would be 2 GB.
    i0, i1, i2, i3, i4, i5, i6, i7 = op.Split(index, num_outputs=8, axis=0)
    v0, v1, v2, v3, v4, v5, v6, v7 = op.Split(vertical, num_outputs=8, axis=0)
    h0, h1, h2, h3, h4, h5, h6, h7 = op.Split(horizontal, num_outputs=8, axis=0)
    cells = op.Concat(
        WeighedPixels(pixels, i0, v0, h0), WeighedPixels(pixels, i1, v1, h1), WeighedPixels(pixels, i2, v2, h2),
        WeighedPixels(pixels, i3, v3, h3), WeighedPixels(pixels, i4, v4, h4), WeighedPixels(pixels, i5, v5, h5),
        WeighedPixels(pixels, i6, v6, h6), WeighedPixels(pixels, i7, v7, h7), axis=0,
    )  # fmt: skip
    side = op.Reshape(op.Constant(value_int=output_size), rest)
    shape = op.Concat(rest, op.Shape(X0, start=1, end=2), side, side, axis=0)
    return op.CastLike(op.Reshape(op.Transpose(cells, perm=[0, 2, 1]), shape), X0)


PARTS = (RowsOfPixels, Window, AxisWeights, WeighedPixels)
"""What it is made of."""
