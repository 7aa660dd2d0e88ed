# SPDX-License-Identifier: Apache-2.0
"""From scores of boxes and classes to the final hundred detections of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from freqfusion.ops.nms import nms

MAX_DETECTIONS = 100
IOU_THRESHOLD = 0.5
SCORE_THRESHOLD = 0.05
PANOPTIC_SCORE_THRESHOLD = 0.6


def select_by_class(
    boxes: Tensor, scores: Tensor, score_threshold: float = SCORE_THRESHOLD, iou_threshold: float = IOU_THRESHOLD
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Suppresses within each class, and takes the best over all classes.

    Args:
        boxes: ``(N, M, K, 4)``: each proposal's box for each class.
        scores: ``(N, M, K)``.
        score_threshold: Only higher scores take part.
        iou_threshold: A box is dropped if it overlaps a better one by more.

    Returns:
        ``num`` ``(N,)``, ``boxes`` ``(N, 100, 4)``, ``scores`` ``(N, 100)``, ``labels`` ``(N, 100)``, best first; from
        ``num`` on boxes and scores are 0 and labels -1.

    Source: ``multiclass_nms`` of mmdetection 2.28, whose boxes shifted by class here are sets of their own.
    """
    m = boxes.shape[1]
    by_class, scores = boxes.transpose(1, 2), scores.transpose(1, 2)  # (N, K, M, 4) and (N, K, M)
    kept = nms(by_class.flatten(0, 1), scores.flatten(0, 1), iou_threshold, score_threshold, MAX_DETECTIONS)
    masked = torch.where(kept.reshape(scores.shape), scores, -1.0).flatten(1)
    best, index = masked.topk(MAX_DETECTIONS, dim=1)
    return _finish(by_class.flatten(1, 2), best, index, index // m)


def select_over_classes(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float = PANOPTIC_SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Suppresses over all classes at once; arguments and results as :func:`select_by_class`.

    At a threshold of 0.5 or more, 0.6 officially, a proposal has one class at most, its best.

    Source: ``multiclass_nms`` with the ``class_agnostic`` of the official panoptic heads.
    """
    top, labels = scores.max(dim=2)
    chosen = torch.gather(boxes, 2, labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    kept = nms(chosen, top, iou_threshold, score_threshold, MAX_DETECTIONS)
    best, index = torch.where(kept, top, -1.0).topk(MAX_DETECTIONS, dim=1)
    return _finish(chosen, best, index, torch.gather(labels, 1, index))


def _finish(boxes: Tensor, scores: Tensor, index: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    found = scores > 0
    chosen = torch.gather(boxes, 1, index[..., None].expand(-1, -1, 4))
    return (
        found.sum(dim=1),
        torch.where(found[..., None], chosen, 0.0),
        torch.where(found, scores, 0.0),
        torch.where(found, labels, -1),
    )
