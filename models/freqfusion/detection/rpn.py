# SPDX-License-Identifier: Apache-2.0
"""The region proposal network: boxes that may hold an object, from every level of the pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.detection.boxes import decode_boxes
from freqfusion.detection.pyramid import OUT_CHANNELS
from freqfusion.ops.nms import nms

STRIDES = (4, 8, 16, 32, 64)
RATIOS = (0.5, 1.0, 2.0)  # height over width
SCALES = (8,)  # sides of anchors, in strides
RPN_IOU_THRESHOLD = 0.7
NUM_PROPOSALS = 1000
"""Boxes per level before suppression, and per image after it."""


class RPNHead(nn.Module):
    """Proposes boxes.

    Args:
        scales: One side of the square anchor, in strides.
        ratios: Three, height over width.
        iou_threshold: Of suppression within a level.

    Source: ``RPNHead`` of mmdetection 2.28. Its number of proposals varies; here the best are followed by fillers
    without area, so that every image has ``NUM_PROPOSALS``.
    """

    def __init__(
        self,
        scales: Sequence[float] = SCALES,
        ratios: Sequence[float] = RATIOS,
        iou_threshold: float = RPN_IOU_THRESHOLD,
    ) -> None:
        super().__init__()
        if len(scales) != 1 or len(ratios) != len(RATIOS):
            raise ValueError(f"RPNHead: one scale and {len(RATIOS)} ratios are built, got {scales} and {ratios}")
        self.scale, self.ratios, self.iou_threshold = float(scales[0]), tuple(ratios), iou_threshold
        self.rpn_conv = nn.Conv2d(OUT_CHANNELS, OUT_CHANNELS, 3, padding=1)
        self.rpn_cls = nn.Conv2d(OUT_CHANNELS, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(OUT_CHANNELS, 4 * len(RATIOS), 1)

    def forward(self, maps: Sequence[Tensor], image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Proposes boxes on P2 to P6.

        Args:
            maps: ``(N, 256, H/s, W/s)`` for s in ``STRIDES``.
            image_sizes: ``(N, 2)`` int64: height and width without padding.

        Returns:
            Boxes ``(N, NUM_PROPOSALS, 4)`` and scores ``(N, NUM_PROPOSALS)``, best first; -1 marks fillers.
        """
        levels = [self._level(x, stride, image_sizes) for x, stride in zip(maps, STRIDES, strict=True)]
        boxes = torch.stack([boxes for boxes, _ in levels], dim=1)  # (N, levels, NUM_PROPOSALS, 4)
        scores = torch.stack([scores for _, scores in levels], dim=1)
        kept = nms(boxes.flatten(0, 1), scores.flatten(0, 1), self.iou_threshold, 0.0, NUM_PROPOSALS)
        scores = torch.where(kept.reshape(scores.shape), scores, -1.0).flatten(1)
        best, index = scores.topk(NUM_PROPOSALS, dim=1)
        chosen = torch.gather(boxes.flatten(1, 2), 1, index[..., None].expand(-1, -1, 4))
        return torch.where(best[..., None] > 0, chosen, 0.0), best

    def _level(self, x: Tensor, stride: int, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the best boxes ``(N, NUM_PROPOSALS, 4)`` of a level and their scores, -1 where there is none."""
        x = F.relu(self.rpn_conv(x))
        logits = self.rpn_cls(x).permute(0, 2, 3, 1).flatten(1)  # row, column, anchor
        deltas = self.rpn_reg(x).permute(0, 2, 3, 1).reshape(logits.shape[0], -1, 4)
        # Small levels have fewer anchors than are taken; fillers spare a number that depends on the size.
        fillers = logits.new_full((logits.shape[0], NUM_PROPOSALS), -1.0)
        scores, index = torch.cat((logits.sigmoid(), fillers), dim=1).topk(NUM_PROPOSALS, dim=1)
        index = torch.where(scores < 0, 0, index)
        chosen = torch.gather(deltas, 1, index[..., None].expand(-1, -1, 4))
        boxes = decode_boxes(self._anchors(index, x.shape[3], stride), chosen, image_sizes)  # fp32, autocast or not
        has_area = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1)
        return boxes, torch.where(has_area, scores, -1.0)

    def _anchors(self, index: Tensor, columns: int, stride: int) -> Tensor:
        """Makes the anchors ``(N, M, 4)`` of positions ``(N, M)`` in the order row, column, ratio."""
        cell = index // len(RATIOS)
        row = cell // columns
        x, y = (cell - row * columns) * stride, row * stride
        base = self._base_anchors(stride).to(index.device)[index - cell * len(RATIOS)]
        return torch.stack((x, y, x, y), dim=-1) + base

    def _base_anchors(self, stride: int) -> Tensor:
        """Returns the ``(3, 4)`` anchors of the first cell; there is no half-stride offset."""
        half = 0.5 * self.scale * stride
        halves = [(half / math.sqrt(ratio), half * math.sqrt(ratio)) for ratio in self.ratios]
        return torch.tensor([(-w, -h, w, h) for w, h in halves])
