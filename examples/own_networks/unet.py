# SPDX-License-Identifier: Apache-2.0
"""A small UNet whose steps up are FreqFusion: arrays in, arrays out.

python unet.py unet.onnx
freqfusion serve unet.onnx
"""

import sys

import torch
from freqfusion import FreqFusion
from freqfusion_export import export
from torch import nn


class UNet(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.fusion = FreqFusion(hr_channels=width, lr_channels=2 * width)
        self.head = nn.Conv2d(3 * width, 2, 1)

    def forward(self, images):
        fine = self.stem(images)
        _, fine, coarse = self.fusion(fine, self.down(fine))
        return self.head(torch.cat([fine, coarse], dim=1))


def build():
    return UNet().eval()


def main(path):
    export(
        build(),
        path,
        inputs={"images": torch.randn(1, 3, 64, 64)},
        outputs=["scores"],
        dynamic={"images": {0: "batch", 2: "height: 2", 3: "width: 2"}},
    )


if __name__ == "__main__":
    main(sys.argv[1])
