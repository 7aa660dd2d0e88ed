# SPDX-License-Identifier: Apache-2.0
"""MSCAN, the backbone of SegNeXt: convolutional attention with strip convolutions of several lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _MLPDepthwise(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dwconv(x)
        return result


class _MLP(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = _MLPDepthwise(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.dwconv(self.fc1(x))))
        return result


class _StripAttention(nn.Module):
    """Gates its input by depth-wise strip convolutions of lengths 7, 11 and 21, horizontal then vertical."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def strip(height: int, width: int) -> nn.Conv2d:
            padding = (height // 2, width // 2)
            return nn.Conv2d(channels, channels, (height, width), padding=padding, groups=channels)

        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv0_1, self.conv0_2 = strip(1, 7), strip(7, 1)
        self.conv1_1, self.conv1_2 = strip(1, 11), strip(11, 1)
        self.conv2_1, self.conv2_2 = strip(1, 21), strip(21, 1)
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        local = self.conv0(x)
        strips = self.conv0_2(self.conv0_1(local)) + self.conv1_2(self.conv1_1(local))
        gate: Tensor = self.conv3(local + strips + self.conv2_2(self.conv2_1(local)))
        return gate * x


class _SpatialAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.spatial_gating_unit = _StripAttention(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x)))) + x
        return result


class _Block(nn.Module):
    def __init__(self, channels: int, mlp_ratio: int) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 1e-2))
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = _SpatialAttention(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = _MLP(channels, channels * mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1.reshape(-1, 1, 1) * self.attn(self.norm1(x))
        y: Tensor = x + self.layer_scale_2.reshape(-1, 1, 1) * self.mlp(self.norm2(x))
        return y


class _Stem(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, channels // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels // 2),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.proj(x)
        return result


class _Downsampling(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.proj(x))
        return result


class MSCAN(nn.Module):
    """Four stages at strides 4, 8, 16 and 32. The defaults are MSCAN-T.

    Args:
        channels: Channels of each stage.
        depths: Blocks of each stage.
        mlp_ratios: Hidden channels of each stage's MLPs, as multiples of ``channels``.

    Source: SegNeXt, NeurIPS 2022; ``mscan.py`` of the official SegNeXt repository, whose attribute names (numbered, not
    listed) the state_dict keeps.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (3, 3, 5, 2),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
    ) -> None:
        super().__init__()
        self.stages = len(channels)
        for stage, (width, depth, ratio) in enumerate(zip(channels, depths, mlp_ratios, strict=True), start=1):
            embed = _Stem(width) if stage == 1 else _Downsampling(channels[stage - 2], width)
            self.add_module(f"patch_embed{stage}", embed)
            self.add_module(f"block{stage}", nn.ModuleList(_Block(width, ratio) for _ in range(depth)))
            self.add_module(f"norm{stage}", nn.LayerNorm(width))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the maps of all stages for ``images`` ``(N, 3, H, W)``: ``(N, channels[s], H / 2**(s+2), ...)``.

        The *normalised* map is both a stage's result and the next one's input.
        """
        outputs = []
        x = images
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            for block in self.get_submodule(f"block{stage}").children():
                x = block(x)
            norm = self.get_submodule(f"norm{stage}")
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            outputs.append(x)
        return outputs
