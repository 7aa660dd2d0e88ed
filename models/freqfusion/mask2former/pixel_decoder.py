# SPDX-License-Identifier: Apache-2.0
"""The pixel decoder: makes the backbone's four maps agree, with FreqFusion between each two of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.fusion import FreqFusion
from freqfusion.mask2former.deformable_encoder import DeformableTransformer

FUSIONS = ("freqfusion", "bilinear")
_NORM_GROUPS = 32
_COMPRESSED_CHANNELS = 64
_RESAMPLE_GROUPS = 4


class _NormedConv(nn.Conv2d):
    """A convolution without bias and the group normalisation behind it, named as detectron2's wrapper names them."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.GroupNorm(_NORM_GROUPS, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(super().forward(x))
        return y


class _BilinearFusion(nn.Module):
    """Stands in for FreqFusion: leaves the fine map as it is, and resizes the coarse one."""

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[None, Tensor, Tensor]:
        return None, fine, F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)


class PixelDecoder(nn.Module):
    """Turns the backbone's maps into features for masks and three maps for the queries to look at.

    Args:
        in_channels: Of the backbone's four maps, fine to coarse.
        channels: Of the results; a multiple of 32.
        layers: Of the deformable encoder.
        fusion: ``freqfusion``, or ``bilinear`` for the twin without it.

    Raises:
        ValueError: For an unknown ``fusion``.

    Source: ``MSDeformAttnPixelDecoder`` in the official ``Mask2Former`` folder.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int = 256, layers: int = 6, fusion: str = "freqfusion"
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"PixelDecoder: fusion must be one of {FUSIONS}, got {fusion!r}")
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, channels, 1), nn.GroupNorm(_NORM_GROUPS, channels))
            for inputs in reversed(in_channels[1:])
        )
        self.transformer = DeformableTransformer(channels, layers)
        self.mask_features = nn.Conv2d(channels, channels, 1)
        self.adapter_1 = _NormedConv(in_channels[0], channels, 1)
        self.layer_1 = _NormedConv(channels, channels, 3)
        self.freqfusions = nn.ModuleList(
            FreqFusion(
                channels,
                channels,
                compressed_channels=_COMPRESSED_CHANNELS,
                feature_resample=True,
                feature_resample_group=_RESAMPLE_GROUPS,
                feature_resample_norm=False,
                hamming_window=False,
            )
            if fusion == "freqfusion"
            else _BilinearFusion()
            for _ in range(3)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decodes.

        Args:
            maps: Of the backbone, at strides 4, 8, 16 and 32.

        Returns:
            Features ``(N, channels, H/4, W/4)`` of which queries make masks, and maps at strides 32, 16 and 8.
        """
        finest, *coarser = maps
        projected = [project(x) for project, x in zip(self.input_proj, reversed(coarser), strict=True)]
        for level in (1, 2):
            projected[level] = self._fuse(level - 1, projected[level], projected[level - 1])
        decoded = self.transformer(projected)
        fused = self._fuse(2, self.adapter_1(finest), decoded[-1])
        features: Tensor = self.mask_features(F.relu(self.layer_1(fused)))
        return features, decoded

    def _fuse(self, number: int, fine: Tensor, coarse: Tensor) -> Tensor:
        _, hr, lr = self.freqfusions[number](fine, coarse)
        fused: Tensor = hr + lr
        return fused
