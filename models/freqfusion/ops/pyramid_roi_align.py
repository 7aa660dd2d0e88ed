# SPDX-License-Identifier: Apache-2.0
"""Averages of a feature pyramid over the cells of boxes, each box on the level that fits its size."""

from __future__ import annotations

import torch
from torch import Tensor

from freqfusion import native
from freqfusion.ops.autograd import widen_under_autocast
from freqfusion.ops.roi_align import roi_align


def check_arguments(
    maps: tuple[Tensor, ...], boxes: Tensor, output_size: int, finest_stride: int, finest_scale: int
) -> None:
    """Raises ``ValueError`` unless ``pyramid_roi_align`` can run on these arguments."""
    for level, x in enumerate(maps):
        if x.dim() != 4:
            raise ValueError(f"pyramid_roi_align: maps must have four dimensions (N, C, H, W), got {x.dim()}")
        if x.shape[:2] != maps[0].shape[:2]:
            raise ValueError(
                "pyramid_roi_align: all maps must have one batch and channel count: map 0 has "
                f"{tuple(maps[0].shape[:2])}, map {level} has {tuple(x.shape[:2])}"
            )
    if boxes.dim() != 3 or boxes.shape[0] != maps[0].shape[0] or boxes.shape[2] != 4:
        raise ValueError(
            f"pyramid_roi_align: boxes must have shape ({maps[0].shape[0]}, M, 4) for these maps, "
            f"got {tuple(boxes.shape)}"
        )
    for name, value in (
        ("output_size", output_size),
        ("finest_stride", finest_stride),
        ("finest_scale", finest_scale),
    ):
        if value < 1:
            raise ValueError(f"pyramid_roi_align: {name} must be at least 1, got {value}")


def pyramid_levels(boxes: Tensor, finest_scale: int) -> Tensor:
    """Chooses the pyramid level, from 0 to 3, that boxes ``(..., 4)`` are read from; int64 ``(...)``.

    Source: ``SingleRoIExtractor.map_roi_levels`` of mmdetection 2.28: floor(log2(scale / 56 + 1e-6)), here by
    comparisons, which no runtime's logarithm can round over an edge.
    """
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    relative = torch.sqrt(width * height) / finest_scale + 1e-6
    return (relative >= 2).long() + (relative >= 4).long() + (relative >= 8).long()


def align_by_level(
    maps: tuple[Tensor, ...], boxes: Tensor, output_size: int, finest_stride: int, finest_scale: int
) -> Tensor:
    """Defines the operator with ``roi_align``.

    Every level is asked for every box, with boxes of other levels replaced by one without area, which costs nothing and
    gives zeros: no shape depends on how many boxes a level has.
    """
    n, m = boxes.shape[:2]
    rois, levels = boxes.flatten(0, 1), pyramid_levels(boxes, finest_scale).flatten()
    images = torch.arange(n, device=boxes.device)[:, None].expand(n, m).flatten()
    total = maps[0].new_zeros(n * m, maps[0].shape[1], output_size, output_size)
    for level, x in enumerate(maps):
        own = torch.where((levels == level)[:, None], rois, 0.0)
        total += roi_align(x, own, images, output_size, 1 / (finest_stride << level))
    return total


@torch.library.custom_op("freqfusion::pyramid_roi_align", mutates_args=())
def pyramid_roi_align(
    map0: Tensor,
    map1: Tensor,
    map2: Tensor,
    map3: Tensor,
    boxes: Tensor,
    output_size: int,
    finest_stride: int,
    finest_scale: int,
) -> Tensor:
    """Averages bilinear samples over each of ``output_size**2`` cells of every box, on the level that fits the box.

    Args:
        map0: The finest map, ``(N, C, H, W)``, any floating dtype; all arithmetic is fp32 for half types.
        map1: The next, of twice the stride; sizes are the maps' own, batch, channels and dtype are ``map0``'s.
        map2: The next.
        map3: The coarsest.
        boxes: ``(N, M, 4)`` fp32: x1, y1, x2, y2 in pixels of the images.
        output_size: K, cells along each axis.
        finest_stride: Image pixels to a pixel of ``map0``.
        finest_scale: The side, in image pixels, whose double is where level 1 begins; see :func:`pyramid_levels`.

    Returns:
        ``(N * M, C, K, K)``, dtype of the maps; see ``roi_align`` for the samples.

    Raises:
        ValueError: If the shapes above do not fit together.

    Source: ``SingleRoIExtractor`` of mmdetection 2.28.
    """
    maps = (map0, map1, map2, map3)
    check_arguments(maps, boxes, output_size, finest_stride, finest_scale)
    result = native.pyramid_roi_align(*maps, boxes, output_size, finest_stride, finest_scale)
    return align_by_level(maps, boxes, output_size, finest_stride, finest_scale) if result is None else result


@pyramid_roi_align.register_fake
def _(
    map0: Tensor,
    map1: Tensor,
    map2: Tensor,
    map3: Tensor,
    boxes: Tensor,
    output_size: int,
    finest_stride: int,
    finest_scale: int,
) -> Tensor:
    check_arguments((map0, map1, map2, map3), boxes, output_size, finest_stride, finest_scale)
    n, m = boxes.shape[:2]
    return map0.new_empty((n * m, map0.shape[1], output_size, output_size))


widen_under_autocast(pyramid_roi_align)
