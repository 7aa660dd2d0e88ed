# SPDX-License-Identifier: Apache-2.0
"""ResNet with bottleneck blocks, the detectors' backbone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STYLES = ("pytorch", "caffe")
CHANNELS = (256, 512, 1024, 2048)
"""Of the four results."""


class _Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, is_first: bool, style: str) -> None:
        super().__init__()
        strides = (stride, 1) if style == "caffe" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride=strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=strides[1], padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        if is_first:
            shortcut = nn.Conv2d(in_channels, 4 * channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * channels))
        self.is_first = is_first

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if self.is_first else x))


class ResNet(nn.Module):
    """Turns normalised images into four maps at strides 4, 8, 16 and 32.

    Args:
        depth: 50 or 101.
        style: ``pytorch``: the stride is on the 3 x 3 convolution; ``caffe``: on the 1 x 1 before it.

    Raises:
        ValueError: If ``style`` is neither.

    Source: ``ResNet`` of mmdetection.
    """

    def __init__(self, depth: int, style: str = "pytorch") -> None:
        super().__init__()
        if style not in STYLES:
            raise ValueError(f"ResNet: style must be one of {STYLES}, got {style!r}")
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        for stage, blocks in enumerate(BLOCKS[depth]):
            channels = 64 * 2**stage
            layers = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_Bottleneck(in_channels, channels, stride, is_first=block == 0, style=style))
                in_channels = 4 * channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns ``(N, C, H/s, W/s)`` for C in ``CHANNELS`` and s = 4, 8, 16, 32; ``images`` is ``(N, 3, H, W)``."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps
