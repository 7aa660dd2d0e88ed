# SPDX-License-Identifier: Apache-2.0
"""Mask2Former on Swin, with FreqFusion, and its bilinear twin."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from freqfusion.mask2former.pixel_decoder import PixelDecoder
from freqfusion.mask2former.predictor import Predictor
from freqfusion.mask2former.swin import Swin


class _Head(nn.Module):
    def __init__(self, pixel_decoder: PixelDecoder, predictor: Predictor) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.predictor(*self.pixel_decoder(maps))
        return found


class Mask2Former(nn.Module):
    """Semantic segmentation by queries: each of them is of a class, and has a mask.

    Args:
        num_classes: Classes; 150 for ADE20K.
        num_queries: Queries.
        embed_dim, depths, num_heads, window_size: Of :class:`Swin`; Swin-B by default.
        channels: Of pixel decoder and queries.
        encoder_layers: Of the pixel decoder.
        decoder_layers: Of the queries.
        fusion: ``freqfusion``, or ``bilinear`` for the twin without it.

    Source: ``MaskFormer`` with ``maskformer2_FreqAware_swin_*_IN21k_384_bs16_160k_res640.yaml`` of the official
    repository. What only training uses is not built.
    """

    size_divisor = 32
    """Sides must be multiples of this; the official pipeline pads normalised images with zeros to such sizes."""

    def __init__(
        self,
        num_classes: int = 150,
        num_queries: int = 100,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window_size: int = 12,
        channels: int = 256,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        fusion: str = "freqfusion",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.backbone = Swin(embed_dim, depths, num_heads, window_size)
        self.sem_seg_head = _Head(
            PixelDecoder([embed_dim * 2**stage for stage in range(4)], channels, encoder_layers, fusion),
            Predictor(num_classes, num_queries, channels, decoder_layers),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Segments.

        Args:
            images: ``(N, 3, H, W)`` normalised RGB.

        Returns:
            Mask logits ``(N, num_queries, H/4, W/4)``, and class logits ``(N, num_queries, num_classes + 1)``, the
            last that a query found nothing; ``freqfusion.ops.query_argmax`` makes labels of them.

        Raises:
            ValueError: If a side is not a multiple of 32.
        """
        height, width = images.shape[2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(
                f"Mask2Former: sides must be multiples of {self.size_divisor}, got {height} x {width}; "
                "append zeros below and at the right"
            )
        found: tuple[Tensor, Tensor] = self.sem_seg_head(self.backbone(images))
        return found
