# SPDX-License-Identifier: Apache-2.0
"""The feature pyramid whose coarse and fine maps FreqFusion fuses, and its twin without FreqFusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.detection.resnet import CHANNELS
from freqfusion.fusion import FreqFusion

OUT_CHANNELS = 256
_COMPRESSED_CHANNELS = 2 * OUT_CHANNELS // 8  # compress_ratio 8 in all six official configurations
FUSIONS = ("freqfusion", "nearest")


class NamedConv(nn.Module):
    """A convolution under the name ``conv``, where mmcv's ``ConvModule`` has it, and with its group normalisation.

    Args:
        in_channels, out_channels, kernel_size, stride: Of the convolution; padding keeps the size at stride 1.
        norm_groups: Groups of the normalisation under the name ``gn``, which then replaces the bias; None for none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, norm_groups: int | None = None
    ) -> None:
        super().__init__()
        padding, bias = kernel_size // 2, norm_groups is None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        self.gn = nn.GroupNorm(norm_groups, out_channels) if norm_groups is not None else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if self.gn is None else self.gn(y)


class Pyramid(nn.Module):
    """Turns the backbone's four maps into five of 256 channels, at strides 4 to 64.

    The coarsest level comes from a stride-2 convolution of C5 and is itself fused into the next: four fusions.

    Args:
        fusion: ``freqfusion``, or ``nearest`` for the classic pyramid: the coarse map repeated and added.
        groups: Channel groups of FreqFusion's resampler.
        norm: Whether the resampler normalises its inputs.
        feature_resample: Whether there is a resampler; in all official configurations there is.
        options: Further ones of :class:`FreqFusion` that the weights do not show, such as ``semi_conv``.

    Source: ``FreqFusionCARAFEFPN`` in the official ``mmdetection`` folder.
    """

    def __init__(
        self,
        fusion: str = "freqfusion",
        groups: int = 4,
        norm: bool = True,
        feature_resample: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"Pyramid: fusion must be one of {FUSIONS}, got {fusion!r}")
        self.lateral_convs = nn.ModuleList(NamedConv(channels, OUT_CHANNELS, 1) for channels in CHANNELS)
        self.lateral_convs.append(NamedConv(CHANNELS[-1], OUT_CHANNELS, 3, stride=2))
        self.fpn_convs = nn.ModuleList(NamedConv(OUT_CHANNELS, OUT_CHANNELS, 3) for _ in range(5))
        if fusion == "freqfusion":
            self.alignment = nn.ModuleList(
                FreqFusion(
                    OUT_CHANNELS,
                    OUT_CHANNELS,
                    compressed_channels=_COMPRESSED_CHANNELS,
                    feature_resample=feature_resample,
                    feature_resample_group=groups,
                    feature_resample_norm=norm,
                    **options,
                )
                for _ in range(4)
            )
        self.fusion = fusion

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns P2 to P6, ``(N, 256, H/s, W/s)`` for s = 4, 8, 16, 32, 64; ``maps`` are C2 to C5."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, (*maps, maps[-1]), strict=True)]
        for level in range(4, 0, -1):
            fine, coarse = laterals[level - 1], laterals[level]
            if self.fusion == "freqfusion":
                _, fine, coarse = self.alignment[level - 1](fine, coarse)
            else:
                coarse = F.interpolate(coarse, scale_factor=2, mode="nearest")
            laterals[level - 1] = fine + coarse
        return [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)]
