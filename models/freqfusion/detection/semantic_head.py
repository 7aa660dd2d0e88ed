# SPDX-License-Identifier: Apache-2.0
"""Classes of every pixel, from all levels of the pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.detection.pyramid import OUT_CHANNELS, NamedConv

_HIDDEN = 128
_NORM_GROUPS = 32
_LEVELS = 4


class _Branch(nn.Module):
    """Brings one level to stride 4 by as many convolutions as it needs doublings, and at least one."""

    def __init__(self, level: int) -> None:
        super().__init__()
        count = max(level, 1)
        self.conv = nn.ModuleList(
            NamedConv(OUT_CHANNELS if i == 0 else _HIDDEN, _HIDDEN, 3, norm_groups=_NORM_GROUPS) for i in range(count)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns ``(N, 128, H/4, W/4)`` for the maps from P2 to this level.

        A doubling is written as a resize to the size of the next finer map. Of maps that are doubled three times, and
        so have sizes of their own, TensorRT-RTX 1.7 cannot build the sum: its compiler ends with std::bad_alloc.
        """
        *finer, x = maps
        for conv in self.conv:
            x = F.relu(conv(x))
            if finer:
                x = F.interpolate(x, size=finer.pop().shape[2:], mode="bilinear", align_corners=False)
        return x


class SemanticHead(nn.Module):
    """Scores the classes of stuff, and one class for all things together, at stride 4.

    Args:
        num_classes: With the class for things, which comes last; 54 for COCO.

    Source: ``PanopticFPNHead`` of mmdetection 2.28.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv_upsample_layers = nn.ModuleList(_Branch(level) for level in range(_LEVELS))
        self.conv_logits = nn.Conv2d(_HIDDEN, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns logits ``(N, num_classes, H/4, W/4)`` for P2 to P5 or more."""
        branches = [branch(maps[: level + 1]) for level, branch in enumerate(self.conv_upsample_layers)]
        total: Tensor = branches[0] + branches[1] + branches[2] + branches[3]
        y: Tensor = self.conv_logits(total)
        return y
