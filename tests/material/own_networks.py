# SPDX-License-Identifier: Apache-2.0
"""Networks as users build them around FreqFusion, small."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from freqfusion import FreqFusion
from torch import Tensor, nn


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class UNet(nn.Module):
    """Each step down halves the map and doubles its channels; each step up fuses by FreqFusion."""

    def __init__(self, width: int = 8, depth: int = 2, classes: int = 3) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = block(3, width)
        self.down = nn.ModuleList([block(a, b, 2) for a, b in itertools.pairwise(channels)])
        self.fusions, self.up = nn.ModuleList(), nn.ModuleList()
        for fine, coarse in zip(channels[-2::-1], channels[:0:-1], strict=True):
            # The last one has the resampler, which the others go without.
            fusion = FreqFusion(fine, coarse, compressed_channels=8, feature_resample=fine == width)
            self.fusions.append(fusion)
            self.up.append(block(fine + coarse, fine))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = [self.stem(images)]
        for down in self.down:
            maps.append(down(maps[-1]))
        found = maps.pop()
        for fusion, up in zip(self.fusions, self.up, strict=True):
            _, fine, coarse = fusion(maps.pop(), found)
            found = up(torch.cat([fine, coarse], dim=1))
        return self.head(found)


class TwoInputs(nn.Module):
    """A picture and a depth map of half its size; several outputs, one of them whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.colours, self.depths = block(3, 8), block(1, 8)
        self.fusion = FreqFusion(8, 8, compressed_channels=8)

    def forward(self, image: Tensor, depth: Tensor) -> dict[str, Any]:
        _, fine, coarse = self.fusion(self.colours(image), self.depths(depth))
        both = fine + coarse
        return {"features": both, "pooled": both.mean((2, 3)), "best": both.argmax(1)}


class SharedFusions(nn.Module):
    """One FreqFusion at three scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fusion = block(3, 8), FreqFusion(8, 8, compressed_channels=8)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.stem(images)
        maps = [fine, *(nn.functional.avg_pool2d(fine, 2**n) for n in (1, 2, 3))]
        found = maps.pop()
        while maps:
            _, fine, coarse = self.fusion(maps.pop(), found)
            found = fine + coarse
        return found


def make(kind: type[nn.Module], **options: Any) -> nn.Module:
    """A network with seeded weights and normalisations that do something, in evaluation mode."""
    torch.manual_seed(0)
    network = kind(**options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, FreqFusion):
            for encoder in (module.content_encoder, module.content_encoder2):
                nn.init.normal_(encoder.weight, std=0.3)
    return network.eval()
