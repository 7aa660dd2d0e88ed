# SPDX-License-Identifier: Apache-2.0
"""Pre-processing as ONNX functions: the official test pipelines, bit by bit, inside the graph.

mm's pipeline resizes uint8 pictures with OpenCV, twice: once keeping the ratio, once stretching to multiples of
the network's divisor, rounding to uint8 each time. OpenCV's bilinear resize is fixed-point (11 bits), so it is written
here in integers; floats would differ by one level in a tenth of the values. Sizes and positions are integer
arithmetic too; TensorRT has no double, and Python's floats give the same (tests/export/test_image_functions.py).

Compiled by onnxscript; see ``functions`` for how to read them.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import opset18 as op
from onnxscript import script

from freqfusion_export.operators.functions import freqfusion

_POWERS = [2**exponent for exponent in range(31)]


@script(freqfusion, default_opset=op)
def FloorLog2(a, b):
    """The whole part, downwards, of log2(a / b) of (1,) positive numbers."""
    powers = op.Constant(value_ints=_POWERS)
    doublings = op.Cast(op.GreaterOrEqual(a, b * powers), to=7) - op.Cast(op.Less(a * powers, b), to=7)
    total = op.ReduceSum(doublings, op.Constant(value_ints=[0]), keepdims=1)
    return total - op.Cast(op.GreaterOrEqual(a, b), to=7)


@script(freqfusion, default_opset=op)
def TimesPowerModulo(a, exponent, b):
    """What a * 2**min(exponent, 24) leaves when divided by b, and what of the exponent is left; all (1,)."""
    step = op.Min(exponent, op.Constant(value_ints=[24]))
    product = a * op.Gather(op.Constant(value_ints=_POWERS), step, axis=0)
    return product - product / b * b, exponent - step


@script(freqfusion, default_opset=op)
def ScaledSide(extent, limit, side):
    """What Python makes of int(extent * (limit / side) + 0.5), in integers; all (1,).

    That is extent * limit / side rounded half up, but for exact halves: the float quotient limit / side is F / 2**e,
    F of 53 bits, and lies below the true one by m / (side * 2**e), m = limit * 2**e modulo side, where m < side / 2.
    Times the extent that is rounded to the number below the half if it is more than half the distance of floats there.
    """
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    doubled = two * extent * limit + side
    half_up = doubled / (two * side)
    is_half = op.Cast(op.Equal(half_up * two * side, doubled), to=7)
    scale_log = FloorLog2(limit, side)
    side_log = FloorLog2(extent * limit, side)
    rest, left = TimesPowerModulo(limit, op.Constant(value_ints=[52]) - scale_log, side)
    rest, left = TimesPowerModulo(rest, left, side)
    rest, left = TimesPowerModulo(rest, left, side)
    rest, left = TimesPowerModulo(rest, left, side)
    is_below = op.Cast(op.Less(two * rest, side), to=7)
    distance = side * op.Gather(op.Constant(value_ints=_POWERS), side_log - scale_log, axis=0)
    is_far = op.Cast(op.Less(distance, two * extent * rest), to=7)
    return op.Max(half_up - is_half * is_below * is_far, one)  # what is left of a side that rounds to nothing


@script(freqfusion, default_opset=op)
def KeepRatioSize(height, width, long_side: int, short_side: int):
    """Scales (1,) sizes until the long or the short side meets its limit first, in mmcv's floats."""
    long = op.Max(height, width)
    short = op.Min(height, width)
    long_limit = op.Reshape(op.Constant(value_int=long_side), op.Constant(value_ints=[1]))
    short_limit = op.Reshape(op.Constant(value_int=short_side), op.Constant(value_ints=[1]))
    by_long = op.Less(long_limit * short, short_limit * long)
    limit = op.Where(by_long, long_limit, short_limit)
    side = op.Where(by_long, long, short)
    # No side exceeds long_side anyway. TensorRT bounds each operator's result by its inputs' bounds, one at a time: a
    # picture of 64 x 64 to 1024 x 2048 might become 8192 x 16384 for all it knows, and it reserves memory for that.
    new_height = op.Min(ScaledSide(height, limit, side), long_limit)
    new_width = op.Min(ScaledSide(width, limit, side), long_limit)
    return new_height, new_width


@script(freqfusion, default_opset=op)
def AxisPositions(source, target):
    """Where each of ``target`` positions of an axis reads ``source``: the lower index, -1 included, and the fraction.

    The position (i + 0.5) * source / target - 0.5 is q + r / (2 * target). OpenCV holds it in fp32, so its fraction is
    that of the rounded sum.
    """
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    i = op.Range(op.Constant(value_int=0), op.Squeeze(target), op.Constant(value_int=1))
    denominator = two * target
    above_minus_one = (two * i + one) * source + target  # over the denominator; positive, so that division floors
    low = above_minus_one / denominator - one
    remainder = op.Cast(above_minus_one - (low + one) * denominator, to=1)
    whole = op.Cast(low, to=1)
    share = (whole + remainder / op.Cast(denominator, to=1)) - whole
    return low, share


@script(freqfusion, default_opset=op)
def FixedPointWeights(share):
    """The weights of both positions in 2048ths (int32); rounded apart, as OpenCV does."""
    fixed = op.Constant(value_float=2048.0)
    low = op.Round((op.Constant(value_float=1.0) - share) * fixed)
    return op.Cast(low, to=6), op.Cast(op.Round(share * fixed), to=6)


@script(freqfusion, default_opset=op)
def ResizeFixedPoint(x, height, width):
    """Resizes (N, H, W, C) int32 levels to (N, height, width, C) as OpenCV resizes uint8 bilinearly.

    Left and right of the picture OpenCV drops the weight of the missing pixel; above and below it repeats the row and
    keeps both weights, which truncates twice.
    """
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    last_row = op.Shape(x, start=1, end=2) - one
    last_column = op.Shape(x, start=2, end=3) - one
    top, y_share = AxisPositions(last_row + one, height)
    left, x_share = AxisPositions(last_column + one, width)
    inside = op.And(op.GreaterOrEqual(left, zero), op.Less(left, last_column))
    left_weight, right_weight = FixedPointWeights(x_share * op.Cast(inside, to=1))
    top_weight, bottom_weight = FixedPointWeights(y_share)
    # Rows first: a large picture is reduced before any arithmetic. The order of the sums is OpenCV's all the same.
    above = op.Gather(x, op.Max(top, zero), axis=1)
    below = op.Gather(x, op.Min(top + one, last_row), axis=1)
    left_column = op.Min(op.Max(left, zero), last_column)
    right_column = op.Min(op.Max(left + one, zero), last_column)
    column = op.Constant(value_ints=[1])
    row = op.Constant(value_ints=[1, 2])
    lw = op.Unsqueeze(left_weight, column)
    rw = op.Unsqueeze(right_weight, column)
    above = op.Gather(above, left_column, axis=2) * lw + op.Gather(above, right_column, axis=2) * rw
    below = op.Gather(below, left_column, axis=2) * lw + op.Gather(below, right_column, axis=2) * rw
    sixteen = op.Cast(op.Constant(value_int=16), to=6)
    high_half = op.Cast(op.Constant(value_int=65536), to=6)
    two = op.Cast(op.Constant(value_int=2), to=6)
    four = op.Cast(op.Constant(value_int=4), to=6)
    upper = above / sixteen * op.Unsqueeze(top_weight, row) / high_half
    lower = below / sixteen * op.Unsqueeze(bottom_weight, row) / high_half
    return (upper + lower + two) / four


@script(freqfusion, default_opset=op)
def ResizeTwice(x, height, width, size_divisor: int):
    """Resizes (N, H, W, 3) uint8 to (1,) sizes, and then up to multiples: int32 levels."""
    one = op.Constant(value_ints=[1])
    divisor = op.Reshape(op.Constant(value_int=size_divisor), one)
    levels = op.Cast(x, to=6)  # TensorRT takes no other operator on a uint8 input
    scaled = ResizeFixedPoint(levels, height, width)
    return ResizeFixedPoint(
        scaled, (height + divisor - one) / divisor * divisor, (width + divisor - one) / divisor * divisor
    )


@script(freqfusion, default_opset=op)
def NormalizeLevels(levels, mean: Sequence[float], inverse_std: Sequence[float]):
    """Turns (N, h, w, 3) int32 levels into the network's (N, 3, h, w) fp32."""
    normalized = (op.Cast(levels, to=1) - op.Constant(value_floats=mean)) * op.Constant(value_floats=inverse_std)
    return op.Transpose(normalized, perm=[0, 3, 1, 2])


@script(freqfusion, default_opset=op)
def PrepareImage(
    x, long_side: int, short_side: int, size_divisor: int, mean: Sequence[float], inverse_std: Sequence[float]
):
    """Turns (N, H, W, 3) uint8 RGB into the network's (N, 3, h, w) fp32."""
    height, width = KeepRatioSize(
        op.Shape(x, start=1, end=2), op.Shape(x, start=2, end=3), long_side=long_side, short_side=short_side
    )
    levels = ResizeTwice(x, height, width, size_divisor=size_divisor)
    return NormalizeLevels(levels, mean=mean, inverse_std=inverse_std)


@script(freqfusion, default_opset=op)
def ExactSize(height, width, exact_height: int, exact_width: int):
    """The exact (1,) sizes where they are asked for, those of a kept ratio where they are 0."""
    zero = op.Constant(value_ints=[0])
    height_asked = op.Reshape(op.Constant(value_int=exact_height), op.Constant(value_ints=[1]))
    width_asked = op.Reshape(op.Constant(value_int=exact_width), op.Constant(value_ints=[1]))
    new_height = op.Where(op.Greater(height_asked, zero), height_asked, height)
    new_width = op.Where(op.Greater(width_asked, zero), width_asked, width)
    return new_height, new_width


@script(freqfusion, default_opset=op)
def OrderChannels(levels, reverse_channels: int):
    """The three channels of (N, h, w, 3), in reverse where that is asked for."""
    last_if_reversed = op.Constant(value_int=reverse_channels) * op.Constant(value_int=2)
    channels = op.Abs(op.Constant(value_ints=[0, 1, 2]) - last_if_reversed)
    return op.Gather(levels, channels, axis=3)


@script(freqfusion, default_opset=op)
def PrepareImageOtherwise(
    x,
    long_side: int,
    short_side: int,
    size_divisor: int,
    exact_height: int,
    exact_width: int,
    reverse_channels: int,
    mean: Sequence[float],
    inverse_std: Sequence[float],
):
    """As ``PrepareImage``, whose body it is for pipelines unlike the official ones: of an exact size, or BGR.

    Without this, every official file would reorder three channels to where they are.
    """
    kept_height, kept_width = KeepRatioSize(
        op.Shape(x, start=1, end=2), op.Shape(x, start=2, end=3), long_side=long_side, short_side=short_side
    )
    height, width = ExactSize(kept_height, kept_width, exact_height=exact_height, exact_width=exact_width)
    levels = OrderChannels(ResizeTwice(x, height, width, size_divisor=size_divisor), reverse_channels=reverse_channels)
    return NormalizeLevels(levels, mean=mean, inverse_std=inverse_std)


@script(freqfusion, default_opset=op)
def ShortestEdgeSize(height, width, long_side: int, short_side: int):
    """Scales (1,) sizes until the short side meets its limit, or the long one does; as detectron2, in integers.

    Its floats give one less where a side comes to a half exactly, which among sizes up to 4000 are some of a long side
    of 3072 and a ratio over 4.
    """
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    long = op.Max(height, width)
    short = op.Min(height, width)
    long_limit = op.Reshape(op.Constant(value_int=long_side), op.Constant(value_ints=[1]))
    short_limit = op.Reshape(op.Constant(value_int=short_side), op.Constant(value_ints=[1]))
    is_long = op.Less(long_limit * short, short_limit * long)
    long_rounded = (two * short_limit * long + short) / (two * short)
    short_rounded = op.Max((two * long_limit * short + long) / (two * long), one)
    new_long = op.Where(is_long, long_limit, op.Min(long_rounded, long_limit))
    new_short = op.Where(is_long, op.Min(short_rounded, short_limit), short_limit)
    is_wide = op.Less(height, width)
    return op.Where(is_wide, new_short, new_long), op.Where(is_wide, new_long, new_short)


@script(freqfusion, default_opset=op)
def PillowTaps(source, target):
    """Which positions of an axis Pillow's bilinear resize mixes for each of ``target``: ``(target, taps)`` indices and
    int32 weights in 2**22ths, 0 for those outside.

    A triangle around each centre, as wide as two target pixels where the axis shrinks and as two source pixels where it
    grows; counted in 1 / (2 * source * target), so that all is whole. Pillow rounds the same shares in double.
    """
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    column = op.Constant(value_ints=[1])
    reach = two * op.Max(source, target)
    taps = reach / target + one
    positions = op.Range(op.Constant(value_int=0), op.Squeeze(target), op.Constant(value_int=1))
    centre = op.Unsqueeze((two * positions + one) * source, column)
    turns = taps + one  # added, so that division floors
    first = (centre - reach - target + two * target * turns) / (two * target) - taps
    index = first + op.Range(op.Constant(value_int=0), op.Squeeze(taps), op.Constant(value_int=1))
    inside = op.Cast(op.And(op.GreaterOrEqual(index, zero), op.Less(index, source)), to=7)
    height = op.Max(reach - op.Abs((two * index + one) * target - centre), zero) * inside
    total = op.ReduceSum(height, op.Constant(value_ints=[1]), keepdims=1)
    weights = (height * op.Constant(value_ints=[8388608]) + total) / (two * total)
    return op.Min(op.Max(index, zero), source - one), op.Cast(weights, to=6)


@script(freqfusion, default_opset=op)
def ResizeAsPillow(x, height, width):
    """Resizes (N, H, W, C) int32 levels to (N, height, width, C) as Pillow resizes uint8 bilinearly, the width first.

    255 times all weights is below 2**30, so that int32 holds every sum.
    """
    half = op.Cast(op.Constant(value_int=2097152), to=6)
    whole = op.Cast(op.Constant(value_int=4194304), to=6)
    columns, column_weights = PillowTaps(op.Shape(x, start=2, end=3), width)
    beside = op.Gather(x, columns, axis=2) * op.Unsqueeze(column_weights, op.Constant(value_ints=[2]))
    across = (op.ReduceSum(beside, op.Constant(value_ints=[3]), keepdims=0) + half) / whole
    rows, row_weights = PillowTaps(op.Shape(x, start=1, end=2), height)
    above = op.Gather(across, rows, axis=1) * op.Unsqueeze(row_weights, op.Constant(value_ints=[2, 3]))
    return (op.ReduceSum(above, op.Constant(value_ints=[2]), keepdims=0) + half) / whole


@script(freqfusion, default_opset=op)
def PrepareImageAsPillow(
    x,
    long_side: int,
    short_side: int,
    size_divisor: int,
    exact_height: int,
    exact_width: int,
    reverse_channels: int,
    resize_as_pillow: int,
    mean: Sequence[float],
    inverse_std: Sequence[float],
):
    """As ``PrepareImageOtherwise``, for pipelines that resize once, by Pillow: ``size_divisor`` is 1."""
    kept_height, kept_width = ShortestEdgeSize(
        op.Shape(x, start=1, end=2), op.Shape(x, start=2, end=3), long_side=long_side, short_side=short_side
    )
    height, width = ExactSize(kept_height, kept_width, exact_height=exact_height, exact_width=exact_width)
    levels = OrderChannels(ResizeAsPillow(op.Cast(x, to=6), height, width), reverse_channels=reverse_channels)
    return NormalizeLevels(levels, mean=mean, inverse_std=inverse_std)


PARTS = (
    FloorLog2,
    TimesPowerModulo,
    ScaledSide,
    KeepRatioSize,
    AxisPositions,
    FixedPointWeights,
    ResizeFixedPoint,
    ResizeTwice,
    NormalizeLevels,
    ExactSize,
    OrderChannels,
    ShortestEdgeSize,
    PillowTaps,
    ResizeAsPillow,
)
"""What ``PrepareImage`` is made of."""
