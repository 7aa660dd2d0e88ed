# SPDX-License-Identifier: Apache-2.0
"""Writes the peer of `benchmarks/mask2former.py`: transformers' Mask2Former on Swin-B, without FreqFusion.

    PEER_VENV/bin/python benchmarks/mask2former_peer.py peer.onnx [--size 640 640]

In an environment of its own, with transformers, scipy, torch, onnx and onnxscript: transformers is no dependency of
this project. Weights are made up. Attention is "eager" and the size fixed: torch 2.13's exporter takes nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch


class Queries(torch.nn.Module):
    """The two tensors of the output that ours has, too."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Segments ``images`` ``(N, 3, H, W)``."""
        found = self.network(pixel_values=images)
        return found.masks_queries_logits, found.class_queries_logits


def main() -> None:
    """Writes the file."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 640), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=384,
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        attn_implementation="eager",
    )
    config = Mask2FormerConfig(backbone_config=swin, num_labels=150, num_queries=100, attn_implementation="eager")
    network = Queries(Mask2FormerForUniversalSegmentation(config)).eval()
    with torch.inference_mode():
        program = torch.onnx.export(
            network,
            (torch.zeros(1, 3, *args.size),),
            dynamo=True,
            opset_version=18,
            input_names=["images"],
            verbose=False,
        )
    assert program is not None
    program.save(args.output, external_data=False)


if __name__ == "__main__":
    main()
