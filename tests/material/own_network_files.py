# SPDX-License-Identifier: Apache-2.0
"""Exported files of the networks of one's own, each made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import own_networks
import torch
from freqfusion_export import export
from kept_files import kept
from torch import nn

PICTURES = {"images": {0: "batch", 2: "height: 8", 3: "width: 8"}}
# Example inputs and free axes, by the network.
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "unet": (own_networks.UNet, {"images": (1, 3, 64, 96)}, PICTURES),
    "shared": (own_networks.SharedFusions, {"images": (1, 3, 32, 48)}, PICTURES),
    "two inputs": (
        own_networks.TwoInputs,
        {"depth": (1, 1, 16, 24), "image": (1, 3, 32, 48)},  # forward takes them the other way round
        {
            "image": {0: "batch", 2: "height", 3: "width"},
            "depth": {0: "batch", 2: "height/2", 3: "width/2"},
        },
    ),
}


def exported(name: str, precision: str = "fp32") -> Any:
    """The file of a network, made once."""
    kind, shapes, dynamic = NETWORKS[name]
    inputs = {
        tensor: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for tensor, shape in shapes.items()
    }

    def write(folder: Any) -> None:
        export(own_networks.make(kind), folder / "net.onnx", inputs=inputs, dynamic=dynamic, precision=precision)

    return kept(f"own network {name} {precision}", write) / "net.onnx"


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(5))
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
