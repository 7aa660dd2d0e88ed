# SPDX-License-Identifier: Apache-2.0
"""Averages of a feature map over the cells of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from freqfusion.ops.autograd import widen_under_autocast


def check_shapes(features: Tensor, rois: Tensor, batch_indices: Tensor, output_size: int) -> None:
    """Raises ``ValueError`` unless ``roi_align`` can run on these arguments."""
    if features.dim() != 4:
        raise ValueError(f"roi_align: features must have four dimensions (N, C, H, W), got {features.dim()}")
    if rois.dim() != 2 or rois.shape[1] != 4:
        raise ValueError(f"roi_align: rois must have shape (R, 4), got {tuple(rois.shape)}")
    if batch_indices.dim() != 1 or batch_indices.shape[0] != rois.shape[0]:
        raise ValueError(
            f"roi_align: batch_indices must have shape ({rois.shape[0]},), got {tuple(batch_indices.shape)}"
        )
    if output_size < 1:
        raise ValueError(f"roi_align: output_size must be at least 1, got {output_size}")


@torch.library.custom_op("freqfusion::roi_align", mutates_args=())
def roi_align(features: Tensor, rois: Tensor, batch_indices: Tensor, output_size: int, spatial_scale: float) -> Tensor:
    """Averages bilinear samples of a map over each of ``output_size**2`` cells of every box.

    A cell has ``ceil(side / output_size)`` sample points along each axis, by box and axis (mmcv's ``sampling_ratio``
    0), and coordinates are shifted by half a pixel (``aligned``). A point further than one pixel outside the map counts
    as zero, others outside are moved to the border. A box without area gives zeros.

    Args:
        features: ``(N, C, H, W)``, any floating dtype; all arithmetic is fp32 for half types.
        rois: ``(R, 4)``: x1, y1, x2, y2 in pixels of the image.
        batch_indices: ``(R,)`` int64, the image of each box, ``0 <= i < N``.
        output_size: Cells along each axis.
        spatial_scale: Pixels of the map per pixel of the image.

    Returns:
        ``(R, C, output_size, output_size)``, dtype of ``features``.

    Raises:
        ValueError: If the shapes above do not fit together.

    Source: Mask R-CNN, ICCV 2017; ``roi_align`` of mmcv 1.7. A sample point's weights are products of one factor by
    axis, so a cell's average is a product of two small matrices with the map, which is how it is computed here.
    """
    check_shapes(features, rois, batch_indices, output_size)
    exact = torch.promote_types(features.dtype, torch.float32)
    maps, boxes = features.to(exact), rois.to(exact) * spatial_scale - 0.5
    height, width = features.shape[2:]
    result = maps.new_zeros(rois.shape[0], features.shape[1], output_size, output_size)
    rows, row_spans = _axis_weights(boxes[:, 1], boxes[:, 3], height, output_size)
    columns, column_spans = _axis_weights(boxes[:, 0], boxes[:, 2], width, output_size)
    for i, n in enumerate(batch_indices.tolist()):
        (top, bottom), (left, right) = row_spans[i], column_spans[i]
        if bottom > top and right > left:
            across = maps[n, :, top:bottom, left:right] @ columns[i, :, left:right].T  # (C, rows, output_size)
            torch.matmul(rows[i, :, top:bottom], across, out=result[i])
    return result.to(features.dtype)


@roi_align.register_fake
def _(features: Tensor, rois: Tensor, batch_indices: Tensor, output_size: int, spatial_scale: float) -> Tensor:
    check_shapes(features, rois, batch_indices, output_size)
    return features.new_empty((rois.shape[0], features.shape[1], output_size, output_size))


widen_under_autocast(roi_align)


def _axis_weights(low: Tensor, high: Tensor, size: int, cells: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Weighs the ``size`` positions of an axis for each cell of boxes from ``low`` to ``high``.

    Returns:
        ``(R, cells, size)`` weights, and for each box the positions, first and one past the last, that have any.
    """
    extent = high - low
    samples = torch.ceil(extent / cells)  # along the axis, per cell
    most = max(1, math.ceil(float(samples.max()))) if samples.numel() else 1
    step = torch.arange(most, device=low.device).to(low)
    cell = torch.arange(cells, device=low.device).to(low)[:, None]
    width = (extent / cells)[:, None, None]
    at = low[:, None, None] + cell * width + (step + 0.5) * width / samples.clamp(min=1)[:, None, None]
    counts = (step < samples[:, None, None]) & (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    first = at.floor().long()
    share = at - first
    weight = counts.to(low) / samples.clamp(min=1)[:, None, None]
    weights = low.new_zeros(low.shape[0], cells, size)
    weights.scatter_add_(2, first, weight * (1 - share))
    weights.scatter_add_(2, (first + 1).clamp(max=size - 1), weight * share)
    used = torch.where(counts, first, size).flatten(1).amin(1)
    last = torch.where(counts, (first + 1).clamp(max=size - 1), -1).flatten(1).amax(1) + 1
    return weights, list(zip(used.tolist(), last.tolist(), strict=True))
