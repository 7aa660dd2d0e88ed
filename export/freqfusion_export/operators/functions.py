# SPDX-License-Identifier: Apache-2.0
"""The operators as ONNX functions of standard operators, which run where no kernel of ours is registered.

A window is K*K rows of a channels-last map, gathered by row and weighed by one small matrix product per input pixel;
indices, not unfolded copies in channels-first order, are what makes the network twice as fast on ONNX Runtime as the
formulation by unfold (`freqfusion bench`). Arithmetic is fp32 whatever the tensors' type, as in the kernels. There is
no GridSample: from opset 20 on TensorRT's parser silently reads it as nearest (onnx-tensorrt PR 1060), and below that
it has open reports of wrong results (TensorRT issue 4813).

onnxscript compiles these functions from their source and never runs them: parameters without a type are tensors, those
with one are attributes, and each name below is a tensor.
"""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import OnnxFunction, Opset

freqfusion = Opset("freqfusion", 1)


@script(freqfusion, default_opset=op)
def TapPositions(size, kernel_size: int):
    """Where every window's taps lie along an axis of ``size`` pixels, counted from K/2 before it: (size, K)."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    pixels = op.Unsqueeze(op.Range(zero, op.Squeeze(size), one), op.Constant(value_ints=[1]))
    return pixels + op.Range(zero, op.Constant(value_int=kernel_size), one)


@script(freqfusion, default_opset=op)
def PaddedTapPositions(size, kernel_size: int, padding: int):
    """The same, with ``padding`` 1 reflected into the axis. Where that is not larger than K/2 no position is valid."""
    straight = TapPositions(size, kernel_size=kernel_size)
    radius = op.Constant(value_int=kernel_size) / op.Constant(value_int=2)
    last = size - op.Constant(value_int=1)
    reflected = radius + last - op.Abs(last - op.Abs(straight - radius))
    beyond = op.Constant(value_int=1099511627776) * op.Max(radius - last, op.Constant(value_ints=[0]))
    return straight + op.Constant(value_int=padding) * (reflected + beyond - straight)


@script(freqfusion, default_opset=op)
def ReassembleRows(X, T, Y, C, kernel_size: int, group_size: int, scale_factor: int):
    """Weighs the windows of X (N, C, H, W) by taps T (N*G, H, S, W, S, K*K): (N, C, S*H, S*W), all fp32.

    Y (H, K) and C (W, K) are the rows and columns that a window reads, counted from K/2 outside the map.
    """
    rest = op.Constant(value_ints=[-1])
    k = op.Constant(value_int=kernel_size)
    radius = op.Reshape(k / op.Constant(value_int=2), rest)
    n = op.Shape(X, start=0, end=1)
    h = op.Shape(X, start=2, end=3)
    w = op.Shape(X, start=3, end=4)
    blocks = n * op.Reshape(op.Constant(value_int=group_size), rest)
    none = op.Constant(value_ints=[0, 0])
    padded = op.Pad(X, op.Concat(none, radius, radius, none, radius, radius, axis=0))
    padded_w = op.Shape(padded, start=3, end=4)
    pixels = op.Shape(padded, start=2, end=3) * padded_w
    rows = op.Transpose(op.Reshape(padded, op.Concat(blocks, rest, pixels, axis=0)), perm=[0, 2, 1])
    y = op.Unsqueeze(Y, op.Constant(value_ints=[1, 3])) * padded_w
    index = op.Reshape(y + op.Unsqueeze(C, op.Constant(value_ints=[1])), rest)  # (H, 1, K, 1) and (W, 1, K)
    one_row = op.Constant(value_ints=[1])
    taps = op.Reshape(k * k, rest)
    windows = op.Reshape(op.Gather(rows, index, axis=1), op.Concat(blocks, h, one_row, w, taps, rest, axis=0))
    # (N*G, H, S, W, S, C/G): sub-rows are a batch dimension of the product, so that pixels come out in output order and
    # one plain transposition remains. With S*S rows per product the final seven-axis one took 3 times the product.
    cells = op.MatMul(T, windows)
    channels = op.Shape(rows, start=2, end=3)
    by_pixel = op.Reshape(cells, op.Concat(blocks, rest, channels, axis=0))
    s = op.Reshape(op.Constant(value_int=scale_factor), rest)
    return op.Reshape(
        op.Transpose(by_pixel, perm=[0, 2, 1]), op.Concat(n, op.Shape(X, start=1, end=2), h * s, w * s, axis=0)
    )


@script(freqfusion, default_opset=op)
def TapsByPixel(M, kernel_size: int, group_size: int, scale_factor: int):
    """Turns a mask (N, G*K*K, S*H, S*W) into taps (N*G, H, S, W, S, K*K), fp32."""
    rest = op.Constant(value_ints=[-1])
    k = op.Constant(value_int=kernel_size)
    taps = op.Reshape(k * k, rest)
    s = op.Reshape(op.Constant(value_int=scale_factor), rest)
    blocks = op.Shape(M, start=0, end=1) * op.Reshape(op.Constant(value_int=group_size), rest)
    h = op.Shape(M, start=2, end=3) / s
    w = op.Shape(M, start=3, end=4) / s
    flat = op.Reshape(op.Cast(M, to=1), op.Concat(blocks, taps, rest, axis=0))
    return op.Reshape(op.Transpose(flat, perm=[0, 2, 1]), op.Concat(blocks, h, s, w, s, taps, axis=0))


@script(freqfusion, default_opset=op)
def Carafe(X, M, kernel_size: int, group_size: int, scale_factor: int):
    """Sums windows of X weighed by M. Attributes and shapes as ``torch.ops.freqfusion.carafe``."""
    taps = TapsByPixel(M, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    wide = op.Cast(X, to=1)
    y = TapPositions(op.Shape(X, start=2, end=3), kernel_size=kernel_size)
    x = TapPositions(op.Shape(X, start=3, end=4), kernel_size=kernel_size)
    result = ReassembleRows(wide, taps, y, x, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    return op.CastLike(result, X)


@script(freqfusion, default_opset=op)
def PaddedCarafe(X, M, kernel_size: int, group_size: int, scale_factor: int, padding: int):
    """``Carafe`` where a node of the graph says how it pads."""
    taps = TapsByPixel(M, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    wide = op.Cast(X, to=1)
    y = PaddedTapPositions(op.Shape(X, start=2, end=3), kernel_size=kernel_size, padding=padding)
    x = PaddedTapPositions(op.Shape(X, start=3, end=4), kernel_size=kernel_size, padding=padding)
    result = ReassembleRows(wide, taps, y, x, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    return op.CastLike(result, X)


@script(freqfusion, default_opset=op)
def FilterTaps(L, window: Sequence[float], kernel_size: int, group_size: int, scale_factor: int, mode: int):
    """Turns logits into the taps of ``AdaptiveFilter``, (N*G, H, S, W, S, K*K), fp32."""
    logits = TapsByPixel(L, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    lowpass = op.Softmax(logits + op.Log(op.Constant(value_floats=window)), axis=-1)
    # The residual goes into the taps: mode * X - f(X) is a window with -f in every tap and mode added at the centre.
    m = op.Constant(value_int=mode)
    one = op.Constant(value_int=1)
    two = op.Constant(value_int=2)
    sign = op.Cast(one - two * op.Min(m, one), to=1)
    count = op.Squeeze(op.Shape(logits, start=5, end=6))
    centre = op.Equal(op.Range(op.Constant(value_int=0), count, one), count / two)
    return lowpass * sign + op.Cast(centre, to=1) * op.Cast(m, to=1)


@script(freqfusion, default_opset=op)
def AdaptiveFilter(X, L, window: Sequence[float], kernel_size: int, group_size: int, scale_factor: int, mode: int):
    """Filters X by kernels from logits L. Attributes and shapes as ``torch.ops.freqfusion.adaptive_filter``."""
    taps = FilterTaps(
        L, window=window, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor, mode=mode
    )
    wide = op.Cast(X, to=1)
    y = TapPositions(op.Shape(X, start=2, end=3), kernel_size=kernel_size)
    x = TapPositions(op.Shape(X, start=3, end=4), kernel_size=kernel_size)
    result = ReassembleRows(wide, taps, y, x, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    return op.CastLike(result, X)


@script(freqfusion, default_opset=op)
def PaddedAdaptiveFilter(
    X, L, window: Sequence[float], kernel_size: int, group_size: int, scale_factor: int, mode: int, padding: int
):
    """``AdaptiveFilter`` where a node of the graph says how it pads."""
    taps = FilterTaps(
        L, window=window, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor, mode=mode
    )
    wide = op.Cast(X, to=1)
    y = PaddedTapPositions(op.Shape(X, start=2, end=3), kernel_size=kernel_size, padding=padding)
    x = PaddedTapPositions(op.Shape(X, start=3, end=4), kernel_size=kernel_size, padding=padding)
    result = ReassembleRows(wide, taps, y, x, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    return op.CastLike(result, X)


@script(freqfusion, default_opset=op)
def LocalSimilarity(X, kernel_size: int, dilation: int):
    """Cosines with dilated neighbours. Attributes and shapes as ``torch.ops.freqfusion.local_similarity``."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    rest = op.Constant(value_ints=[-1])
    k = op.Constant(value_int=kernel_size)
    d = op.Constant(value_int=dilation)
    half = k * k / op.Constant(value_int=2)
    reach = op.Reshape(k / op.Constant(value_int=2) * d, rest)
    n = op.Shape(X, start=0, end=1)
    h = op.Shape(X, start=2, end=3)
    w = op.Shape(X, start=3, end=4)
    wide = op.Cast(X, to=1)
    norm = op.Sqrt(op.ReduceSum(wide * wide, op.Constant(value_ints=[1])))
    unit = wide / op.Max(norm, op.Constant(value_float=1e-8))
    none = op.Constant(value_ints=[0, 0])
    padded = op.Pad(unit, op.Concat(none, reach, reach, none, reach, reach, axis=0))
    padded_w = op.Shape(padded, start=3, end=4)
    flat = op.Constant(value_ints=[0, 0, -1])
    rows = op.Transpose(op.Reshape(padded, flat), perm=[0, 2, 1])
    centres = op.Transpose(op.Reshape(unit, flat), perm=[0, 2, 1])
    taps = op.Concat(op.Range(zero, half, one), op.Range(half + one, k * k, one), axis=0)
    offset = taps / k * d * padded_w + op.Mod(taps, k) * d
    last = op.Constant(value_ints=[1])
    y = op.Unsqueeze(op.Range(zero, op.Squeeze(h), one), last) * padded_w
    pixel = op.Reshape(y + op.Range(zero, op.Squeeze(w), one), op.Constant(value_ints=[-1, 1]))
    count = op.Reshape(k * k - one, rest)
    neighbours = op.Gather(rows, op.Reshape(pixel + offset, rest), axis=1)
    neighbours = op.Reshape(neighbours, op.Concat(n, h * w, count, rest, axis=0))
    column = op.Unsqueeze(centres, op.Constant(value_ints=[3]))
    cosines = op.Squeeze(op.MatMul(neighbours, column), op.Constant(value_ints=[3]))
    result = op.Reshape(op.Transpose(cosines, perm=[0, 2, 1]), op.Concat(n, count, h, w, axis=0))
    return op.CastLike(result, X)


@script(freqfusion, default_opset=op)
def OffsetResample(X, O, groups: int):  # noqa: E741
    """Resamples X at moved positions. Attributes and shapes as ``torch.ops.freqfusion.offset_resample``."""
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    two = op.Constant(value_int=2)
    rest = op.Constant(value_ints=[-1])
    pair = op.Constant(value_ints=[2])
    n = op.Shape(X, start=0, end=1)
    height = op.Shape(X, start=2, end=3)
    width = op.Shape(X, start=3, end=4)
    h = op.Shape(O, start=2, end=3)
    w = op.Shape(O, start=3, end=4)
    g = op.Reshape(op.Constant(value_int=groups), rest)
    blocks = n * g
    cells = op.Reshape(op.Cast(O, to=1), op.Concat(n, pair, g, pair, pair, h, w, axis=0))
    moves = op.Transpose(cells, perm=[1, 0, 2, 5, 3, 6, 4])
    moves = op.Reshape(moves, op.Concat(pair, blocks, height, width, axis=0))  # (xy, N*G, 2h, 2w)
    half = op.Constant(value_float=0.5)
    cell_x = op.Range(zero, op.Squeeze(width), one) / two
    cell_y = op.Unsqueeze(op.Range(zero, op.Squeeze(height), one) / two, op.Constant(value_ints=[1]))
    x = (op.Cast(cell_x, to=1) + half + op.Gather(moves, zero, axis=0)) * op.Constant(value_float=2.0) - half
    y = (op.Cast(cell_y, to=1) + half + op.Gather(moves, one, axis=0)) * op.Constant(value_float=2.0) - half
    border = op.Constant(value_float=0.0)
    x = op.Min(op.Max(x, border), op.Cast(width - one, to=1))
    y = op.Min(op.Max(y, border), op.Cast(height - one, to=1))
    left = op.Floor(x)
    top = op.Floor(y)
    right_share = x - left
    bottom_share = y - top
    full = op.Constant(value_float=1.0)
    left_share = full - right_share
    top_share = full - bottom_share
    x0 = op.Cast(left, to=7)
    y0 = op.Cast(top, to=7)
    x1 = op.Min(x0 + one, width - one)
    y1 = op.Min(y0 + one, height - one)
    block = op.Unsqueeze(op.Range(zero, op.Squeeze(blocks), one), op.Constant(value_ints=[1, 2])) * height
    upper = (block + y0) * width
    lower = (block + y1) * width
    last = op.Constant(value_ints=[3])
    index = op.Concat(
        op.Unsqueeze(upper + x0, last),
        op.Unsqueeze(upper + x1, last),
        op.Unsqueeze(lower + x0, last),
        op.Unsqueeze(lower + x1, last),
        axis=3,
    )
    shares = op.Concat(
        op.Unsqueeze(top_share * left_share, last),
        op.Unsqueeze(top_share * right_share, last),
        op.Unsqueeze(bottom_share * left_share, last),
        op.Unsqueeze(bottom_share * right_share, last),
        axis=3,
    )
    pixels = height * width
    by_block = op.Reshape(op.Cast(X, to=1), op.Concat(blocks, rest, pixels, axis=0))
    rows = op.Transpose(by_block, perm=[0, 2, 1])
    channels = op.Shape(rows, start=2, end=3)
    corners = op.Gather(op.Reshape(rows, op.Concat(rest, channels, axis=0)), op.Reshape(index, rest), axis=0)
    four = op.Constant(value_ints=[4])
    single = op.Constant(value_ints=[1])
    mixed = op.MatMul(
        op.Reshape(shares, op.Concat(blocks, pixels, single, four, axis=0)),
        op.Reshape(corners, op.Concat(blocks, pixels, four, channels, axis=0)),
    )
    result = op.Transpose(op.Squeeze(mixed, op.Constant(value_ints=[2])), perm=[0, 2, 1])
    return op.CastLike(op.Reshape(result, op.Shape(X)), X)


@script(freqfusion, default_opset=op)
def ResizeMatrix(source, target, align_corners: int):
    """One axis of a bilinear resize as a matrix (target, source): hats of width 1 around the positions read."""
    zero = op.Constant(value_int=0)
    step = op.Constant(value_int=1)
    one = op.Constant(value_float=1.0)
    half = op.Constant(value_float=0.5)
    s = op.Cast(source, to=1)
    t = op.Cast(target, to=1)
    i = op.Cast(op.Range(zero, op.Squeeze(target), step), to=1)
    by_centres = (i + half) * (s / t) - half
    by_corners = i * ((s - one) / op.Max(t - one, one))
    is_corners = op.Cast(op.Constant(value_int=align_corners), to=1)
    position = by_corners * is_corners + by_centres * (one - is_corners)
    position = op.Min(op.Max(position, op.Constant(value_float=0.0)), s - one)
    j = op.Cast(op.Range(zero, op.Squeeze(source), step), to=1)
    return op.Relu(one - op.Abs(op.Unsqueeze(position, op.Constant(value_ints=[1])) - j))


@script(freqfusion, default_opset=op)
def ResizeArgmax(X, sizes, align_corners: int):
    """Resizes class maps twice and keeps the largest. As ``torch.ops.freqfusion.resize_argmax``.

    Both steps of an axis are one matrix, so that class maps exist at the output's size only, once.
    """
    step_h, step_w, out_h, out_w = op.Split(sizes, num_outputs=4, axis=0)
    rows = op.MatMul(
        ResizeMatrix(step_h, out_h, align_corners=align_corners),
        ResizeMatrix(op.Shape(X, start=2, end=3), step_h, align_corners=align_corners),
    )
    columns = op.MatMul(
        ResizeMatrix(step_w, out_w, align_corners=align_corners),
        ResizeMatrix(op.Shape(X, start=3, end=4), step_w, align_corners=align_corners),
    )
    wide = op.MatMul(op.Cast(X, to=1), op.Transpose(columns, perm=[1, 0]))
    return op.Cast(op.ArgMax(op.MatMul(rows, wide), axis=1, keepdims=0), to=6)


@script(freqfusion, default_opset=op)
def WeighedRows(rows, index, shares):
    """Sums rows[index] (..., K, D) weighed by shares (..., K): (..., D), of four axes each."""
    last = op.Constant(value_ints=[3])
    return op.Squeeze(op.MatMul(op.Unsqueeze(shares, last), op.Gather(rows, index, axis=0)), last)


@script(freqfusion, default_opset=op)
def DeformableAttention(V, O, L, sizes, levels: int):  # noqa: E741
    """Gathers from places on all levels. Attributes and shapes as ``torch.ops.freqfusion.deformable_attention``.

    One gather for each of the four pixels around a place: all at once would be 413 MB at 640 x 640.
    """
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    rest = op.Constant(value_ints=[-1])
    last = op.Constant(value_ints=[1])
    heads_and_places = op.Constant(value_ints=[1, 2])
    n = op.Shape(V, start=0, end=1)
    tokens = op.Shape(V, start=1, end=2)
    heads = op.Shape(V, start=2, end=3)
    pairs = op.Reshape(sizes, op.Constant(value_ints=[-1, 2]))
    heights = op.Gather(pairs, zero, axis=1)
    widths = op.Gather(pairs, one, axis=1)
    starts = op.CumSum(heights * widths, zero, exclusive=1)
    # Of every token: its level, and its pixel's centre as a share of that level's sides.
    token = op.Range(zero, op.Squeeze(tokens), one)
    passed = op.GreaterOrEqual(op.Unsqueeze(token, last), starts)
    level = op.ReduceSum(op.Cast(passed, to=7), last, keepdims=0) - one
    own_width = op.Gather(widths, level, axis=0)
    in_level = token - op.Gather(starts, level, axis=0)
    row = in_level / own_width
    column = in_level - row * own_width
    half = op.Constant(value_float=0.5)
    across = (op.Cast(column, to=1) + half) / op.Cast(own_width, to=1)
    down = (op.Cast(row, to=1) + half) / op.Cast(op.Gather(heights, level, axis=0), to=1)
    # Of every place: the sides and the first token of the level that it lies on.
    places = op.Shape(L, start=3, end=4)
    points = places / op.Reshape(op.Constant(value_int=levels), rest)
    target = op.Range(zero, op.Squeeze(places), one) / points
    width = op.Gather(widths, target, axis=0)
    height = op.Gather(heights, target, axis=0)
    wide = op.Cast(width, to=1)
    tall = op.Cast(height, to=1)
    moves = op.Reshape(op.Cast(O, to=1), op.Concat(op.Shape(L), op.Constant(value_ints=[2]), axis=0))
    x = op.Unsqueeze(across, heads_and_places) * wide + op.Gather(moves, zero, axis=4) - half
    y = op.Unsqueeze(down, heads_and_places) * tall + op.Gather(moves, one, axis=4) - half
    # Two pixels outside all is zero, so places may be moved there: no number becomes an index that does not exist.
    full = op.Constant(value_float=1.0)
    none = op.Constant(value_float=0.0)
    outside = op.Constant(value_float=-2.0)
    x = op.Min(op.Max(x, outside), wide + full)
    y = op.Min(op.Max(y, outside), tall + full)
    left = op.Floor(x)
    top = op.Floor(y)
    right = left + full
    bottom = top + full
    x0 = op.Min(op.Max(left, none), wide - full)
    x1 = op.Min(op.Max(right, none), wide - full)
    y0 = op.Min(op.Max(top, none), tall - full)
    y1 = op.Min(op.Max(bottom, none), tall - full)
    left_share = op.Where(op.Equal(left, x0), right - x, none)
    right_share = op.Where(op.Equal(right, x1), x - left, none)
    weights = op.Softmax(op.Cast(L, to=1), axis=-1)
    top_share = op.Where(op.Equal(top, y0), bottom - y, none) * weights
    bottom_share = op.Where(op.Equal(bottom, y1), y - top, none) * weights
    image = op.Unsqueeze(op.Range(zero, op.Squeeze(n), one), op.Constant(value_ints=[1, 2, 3])) * tokens
    first = op.Gather(starts, target, axis=0) + image
    head = op.Unsqueeze(op.Range(zero, op.Squeeze(heads), one), last)
    upper = first + op.Cast(y0, to=7) * width
    lower = first + op.Cast(y1, to=7) * width
    near = op.Cast(x0, to=7)
    far = op.Cast(x1, to=7)
    channels = op.Shape(V, start=3, end=4)
    rows = op.Reshape(op.Cast(V, to=1), op.Concat(n * tokens * heads, channels, axis=0))
    total = WeighedRows(rows, (upper + near) * heads + head, top_share * left_share)
    total = total + WeighedRows(rows, (upper + far) * heads + head, top_share * right_share)
    total = total + WeighedRows(rows, (lower + near) * heads + head, bottom_share * left_share)
    total = total + WeighedRows(rows, (lower + far) * heads + head, bottom_share * right_share)
    return op.CastLike(total, V)


@script(freqfusion, default_opset=op)
def ResizeMaps(X, size):
    """Resizes X (N, C, H, W), fp32, bilinearly to ``size`` (2,), half-pixel centred and without antialiasing."""
    none = op.Constant(value_floats=[])
    shape = op.Concat(op.Shape(X, start=0, end=2), size, axis=0)
    return op.Resize(X, none, none, shape, mode="linear", coordinate_transformation_mode="half_pixel")


@script(freqfusion, default_opset=op)
def QueryArgmax(X, P, sizes):
    """Makes a label map of queries' masks X and classes P. As ``torch.ops.freqfusion.query_argmax``.

    Class maps exist at the kept size and at the picture's here; the kernels never store them.
    """
    padded, kept, size = op.Split(sizes, num_outputs=3, axis=0)
    maps = op.Constant(value_ints=[2, 3])
    masks = op.Slice(ResizeMaps(op.Cast(X, to=1), padded), op.Constant(value_ints=[0, 0]), kept, maps)
    softmax = op.Softmax(op.Cast(P, to=1), axis=-1)
    shares = op.Slice(softmax, op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]), op.Constant(value_ints=[2]))
    flat = op.Reshape(op.Sigmoid(masks), op.Constant(value_ints=[0, 0, -1]))
    scores = op.MatMul(op.Transpose(shares, perm=[0, 2, 1]), flat)
    scores = op.Reshape(scores, op.Concat(op.Constant(value_ints=[0, 0]), kept, axis=0))
    return op.Cast(op.ArgMax(ResizeMaps(scores, size), axis=1, keepdims=0), to=6)


OPERATORS = (Carafe, AdaptiveFilter, DeformableAttention, LocalSimilarity, OffsetResample, QueryArgmax, ResizeArgmax)
"""What the exporter writes as nodes; kernels and plugins exist under these names."""

PADDED: dict[str, OnnxFunction[Any, Any]] = {"Carafe": PaddedCarafe, "AdaptiveFilter": PaddedAdaptiveFilter}
"""Bodies of operators with an attribute ``padding``, which nodes have in a graph where any of them reflects: without it
a file is what it was before there was a choice, and any library of an earlier release runs it."""

PARTS = (
    FilterTaps,
    PaddedTapPositions,
    ReassembleRows,
    ResizeMaps,
    ResizeMatrix,
    TapPositions,
    TapsByPixel,
    WeighedRows,
)
"""What several of them share."""
