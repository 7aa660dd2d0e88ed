# SPDX-License-Identifier: Apache-2.0
"""Suppression of boxes that overlap a better one."""

from __future__ import annotations

import torch
from torch import Tensor

from freqfusion.ops.autograd import widen_under_autocast


def check_shapes(boxes: Tensor, scores: Tensor) -> None:
    """Raises ``ValueError`` unless ``nms`` can run on these arguments."""
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"nms: boxes must have shape (B, M, 4), got {tuple(boxes.shape)}")
    if scores.dim() != 2 or any(got != want for got, want in zip(scores.shape, boxes.shape[:2], strict=True)):
        raise ValueError(f"nms: scores must have shape {tuple(boxes.shape[:2])}, got {tuple(scores.shape)}")


@torch.library.custom_op("freqfusion::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_kept: int) -> Tensor:
    """Marks the boxes that greedy non-maximum suppression keeps, in each of B independent sets.

    From the best score down, a box is kept unless its overlap with one kept before exceeds the threshold.

    Args:
        boxes: ``(B, M, 4)``: x1, y1, x2, y2.
        scores: ``(B, M)``; only boxes with more than ``score_threshold`` take part.
        iou_threshold: A box is dropped if intersection over union with a kept one is greater.
        score_threshold: See ``scores``.
        max_kept: At most so many, the best, are kept in each set.

    Returns:
        ``(B, M)`` bool.

    Raises:
        ValueError: If the shapes above do not fit together.

    Source: ``nms`` of mmcv 1.7, CPU, offset 0. Which of two boxes with equal scores comes first is not defined there.
    """
    check_shapes(boxes, scores)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row in (scores > score_threshold).any(dim=1).nonzero()[:, 0].tolist():
        candidates = (scores[row] > score_threshold).nonzero()[:, 0]
        order = candidates[scores[row, candidates].argsort(descending=True, stable=True)]
        kept[row, order[_greedy(boxes[row, order], iou_threshold)][:max_kept]] = True
    return kept


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_kept: int) -> Tensor:
    check_shapes(boxes, scores)
    return torch.empty_like(scores, dtype=torch.bool)


widen_under_autocast(nms)


def _greedy(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Marks which of ``(M, 4)`` boxes, best first, are kept.

    Whether a box is kept depends on better boxes alone, so repeating "kept unless a kept better box overlaps" settles
    the boxes from the best down; each round settles at least one, usually all within ten.
    """
    overlaps = (iou_matrix(boxes) > iou_threshold).triu(1)
    kept = torch.ones_like(overlaps[0])
    while True:
        settled = ~(overlaps & kept[:, None]).any(dim=0)
        if torch.equal(settled, kept):
            return kept
        kept = settled


def iou_matrix(boxes: Tensor) -> Tensor:
    """Intersection over union of ``(..., M, 4)`` boxes with each other, ``(..., M, M)``; 0 for boxes without area."""
    low = torch.maximum(boxes[..., :, None, :2], boxes[..., None, :, :2])
    high = torch.minimum(boxes[..., :, None, 2:], boxes[..., None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    union = area[..., :, None] + area[..., None, :] - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)
