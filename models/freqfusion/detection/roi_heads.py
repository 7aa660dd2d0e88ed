# SPDX-License-Identifier: Apache-2.0
"""What is said about each proposed box: class, refined box, mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.detection.pyramid import OUT_CHANNELS, NamedConv
from freqfusion.detection.rpn import STRIDES
from freqfusion.ops.pyramid_roi_align import pyramid_roi_align

FINEST_SCALE = 56  # a box of fewer than twice so many pixels a side is read from P2
_BOX_CELLS = 7
_MASK_CELLS = 14
MASK_SIZE = 28
_HIDDEN = 1024
# dx, dy, dw, dh are regressed in units of these.
_DELTA_STDS = (0.1, 0.1, 0.2, 0.2)


def extract(maps: Sequence[Tensor], boxes: Tensor, cells: int) -> Tensor:
    """Averages the pyramid over boxes, each on the level that fits its size.

    Args:
        maps: P2 to P5 or more, ``(N, C, H/s, W/s)``.
        boxes: ``(N, M, 4)`` in pixels of the images.
        cells: K, cells along each axis.

    Returns:
        ``(N * M, C, K, K)``.
    """
    p2, p3, p4, p5 = maps[:4]
    features: Tensor = pyramid_roi_align(p2, p3, p4, p5, boxes, cells, STRIDES[0], FINEST_SCALE)
    return features


class BoxHead(nn.Module):
    """Classifies boxes and refines them, class by class.

    Args:
        num_classes: K, classes of things; the background comes last.

    Source: ``Shared2FCBBoxHead`` of mmdetection 2.28.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(_HIDDEN, num_classes + 1)
        self.fc_reg = nn.Linear(_HIDDEN, 4 * num_classes)
        flat = OUT_CHANNELS * _BOX_CELLS**2
        self.shared_fcs = nn.ModuleList([nn.Linear(flat, _HIDDEN), nn.Linear(_HIDDEN, _HIDDEN)])

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits ``(N, M, K + 1)`` and deltas ``(N, M, K, 4)`` for ``boxes`` ``(N, M, 4)``."""
        n, m = boxes.shape[:2]
        x = extract(maps, boxes, _BOX_CELLS).flatten(1)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        deltas = self.fc_reg(x).reshape(n, m, -1, 4) * x.new_tensor(_DELTA_STDS)
        return self.fc_cls(x).reshape(n, m, -1), deltas


class MaskHead(nn.Module):
    """Draws a mask in each box.

    Args:
        num_classes: Classes of things.

    Source: ``FCNMaskHead`` of mmdetection 2.28.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(NamedConv(OUT_CHANNELS, OUT_CHANNELS, 3) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(OUT_CHANNELS, OUT_CHANNELS, 2, stride=2)
        self.conv_logits = nn.Conv2d(OUT_CHANNELS, num_classes, 1)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Returns the logits ``(N, M, 28, 28)`` of the classes ``labels`` ``(N, M)`` in ``boxes`` ``(N, M, 4)``."""
        n, m = labels.shape
        logits = self.logits(extract(maps, boxes, _MASK_CELLS))
        index = labels.clamp(min=0).reshape(-1, 1, 1, 1).expand(-1, 1, MASK_SIZE, MASK_SIZE)
        return torch.gather(logits, 1, index).reshape(n, m, MASK_SIZE, MASK_SIZE)

    def logits(self, x: Tensor) -> Tensor:
        """Returns all classes' logits ``(R, K, 28, 28)`` for features ``(R, 256, 14, 14)``."""
        for conv in self.convs:
            x = F.relu(conv(x))
        y: Tensor = self.conv_logits(F.relu(self.upsample(x)))
        return y


class RoIHead(nn.Module):
    """Holds the heads under their official names.

    Args:
        num_classes: Classes of things.
        has_masks: Whether there is a mask head.
    """

    def __init__(self, num_classes: int, has_masks: bool) -> None:
        super().__init__()
        self.bbox_head = BoxHead(num_classes)
        if has_masks:
            self.mask_head = MaskHead(num_classes)
