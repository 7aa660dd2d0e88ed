# SPDX-License-Identifier: Apache-2.0
"""A SegFormer head that fuses by FreqFusion from coarse to fine: pictures in, label maps out.

python segformer_head.py segformer.onnx
freqfusion run segformer.onnx photo.jpg --output results
freqfusion serve segformer.onnx
"""

import sys

import torch
from freqfusion import FreqFusion
from freqfusion_export import export
from freqfusion_runtime.model_files.manifest import Preprocessing
from torch import nn

CLASSES = ["road", "tree", "sky"]


class Segmenter(nn.Module):
    def __init__(self, channels=(8, 16, 24, 32), width=16):
        super().__init__()
        steps = zip((3, *channels), channels)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in steps)
        self.linears = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        # The coarse map gathers channels: width, 2 * width, 3 * width.
        self.fusions = nn.ModuleList(FreqFusion(width, n * width) for n in range(1, len(channels)))
        self.classify = nn.Conv2d(len(channels) * width, len(CLASSES), 1)

    def forward(self, images):
        maps = []
        for stage, linear in zip(self.stages, self.linears):
            images = stage(images).relu()
            maps.append(linear(images))
        found = maps.pop()
        for fusion in self.fusions:
            _, fine, coarse = fusion(maps.pop(), found)
            found = torch.cat([fine, coarse], dim=1)
        return self.classify(found)


def build():
    return Segmenter().eval()


def main(path):
    preprocessing = Preprocessing(long_side=256, short_side=128, size_divisor=16)  # and mean and std, as in training
    export(build(), path, task="semantic_segmentation", classes=CLASSES, preprocessing=preprocessing)


if __name__ == "__main__":
    main(sys.argv[1])
