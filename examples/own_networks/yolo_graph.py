# SPDX-License-Identifier: Apache-2.0
"""A graph as YOLO's yaml files have it, with FreqFusion where two branches meet: three scales out.

python yolo_graph.py yolo.onnx
freqfusion serve yolo.onnx
"""

import sys

import torch
import yaml
from freqfusion import FreqFusion
from freqfusion_export import export
from torch import nn

GRAPH = """
# [from, module, arguments]
- [-1, Conv, [3, 16]]
- [-1, Conv, [16, 32]]
- [-1, Conv, [32, 32]]
- [-1, Conv, [32, 32]]
- [[2, -1], Fuse, [32, 32]]
- [[1, -1], Fuse, [32, 32]]
"""


class Conv(nn.Sequential):
    def __init__(self, a, b):
        super().__init__(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.SiLU())


class Fuse(nn.Module):
    def __init__(self, hr_channels, lr_channels):
        super().__init__()
        self.fusion = FreqFusion(hr_channels, lr_channels, compressed_channels=(hr_channels + lr_channels) // 8)

    def forward(self, maps):
        _, fine, coarse = self.fusion(*maps)
        return fine + coarse


class Graph(nn.Module):
    def __init__(self, text=GRAPH):
        super().__init__()
        self.rows = yaml.safe_load(text)
        self.layers = nn.ModuleList(globals()[kind](*arguments) for _, kind, arguments in self.rows)

    def forward(self, images):
        maps = [images]
        for (source, _, _), layer in zip(self.rows, self.layers):
            # -1 is the layer before, other numbers count layers from 0.
            maps.append(layer([maps[s + (s >= 0)] for s in source] if isinstance(source, list) else maps[source]))
        return maps[-1], maps[-2], maps[4]


def build():
    return Graph().eval()


def main(path):
    export(
        build(),
        path,
        inputs={"images": torch.randn(1, 3, 64, 64)},
        outputs=["p2", "p3", "p4"],
        dynamic={"images": {0: "batch", 2: "height: 16", 3: "width: 16"}},
    )


if __name__ == "__main__":
    main(sys.argv[1])
