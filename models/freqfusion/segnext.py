# SPDX-License-Identifier: Apache-2.0
"""SegNeXt-T with FreqFusion, and its bilinear twin."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from freqfusion.ham_head import HamHead
from freqfusion.mscan import MSCAN


class SegNeXt(nn.Module):
    """Semantic segmentation: normalised images to class scores at an eighth of their size.

    Args:
        num_classes: Classes; 150 for ADE20K. With one, labels are 0, background, and 1.
        fusion: ``freqfusion``, or ``bilinear`` for the twin without it.
        bases_seed: Seed of the head's factorisation bases.
        options: Further ones of :class:`HamHead` that the weights do not show, ``threshold`` among them.

    Source: ``segnext.tiny.freqfusion.512x512.ade.160k.py`` of the official repository.
    """

    size_divisor = 32
    """Sides must be multiples of this; the official pipeline stretches pictures to such sizes."""

    def __init__(self, num_classes: int = 150, fusion: str = "freqfusion", bases_seed: int = 0, **options: Any) -> None:
        super().__init__()
        self.backbone = MSCAN()
        self.decode_head = HamHead(num_classes=num_classes, fusion=fusion, bases_seed=bases_seed, **options)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``(N, num_classes, H/8, W/8)`` for ``images`` ``(N, 3, H, W)``; of one class, two channels.

        Raises:
            ValueError: If a side is not a multiple of 32.
        """
        height, width = images.shape[2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(
                f"SegNeXt: sides must be multiples of {self.size_divisor}, got {height} x {width}; "
                "resize the image as the official pipeline does"
            )
        logits: Tensor = self.decode_head(self.backbone(images)[1:])
        return logits
