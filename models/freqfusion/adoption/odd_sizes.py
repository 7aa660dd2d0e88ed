# SPDX-License-Identifier: Apache-2.0
"""Filters that enlarge a map to any size: every output pixel reads the window of its nearest input pixel."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def lowpass_to_size(lowpass: Callable[[Tensor, Tensor, int], Tensor], features: Tensor, logits: Tensor) -> Tensor:
    """Filters ``features`` ``(N, C, h, w)`` by ``logits`` ``(N, K**2, H, W)`` of any size: ``(N, C, H, W)``.

    As if windows had been enlarged by ``interpolate(size=(H, W), mode="nearest")``. An input pixel becomes S outputs at
    most along an axis; logits are spread over S x S cells, filtered at scale S, and the outputs gathered again.

    Args:
        lowpass: Filters by ``(features, logits, scale)``.
    """
    sizes = zip(features.shape[2:], logits.shape[2:], strict=True)
    scale = max(-(-target // source) for source, target in sizes)
    outputs = []
    for axis in (2, 3):
        slots, places = _cells(features.shape[axis], logits.shape[axis], scale, features.device)
        logits = logits.index_select(axis, slots)
        outputs.append(places)
    filtered = lowpass(features, logits, scale)
    return filtered.index_select(2, outputs[0]).index_select(3, outputs[1])


def _cells(source: int, target: int, scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of an axis: the output that each of ``source * scale`` places of cells holds, and the place of each output."""
    pixels = torch.arange(source, device=device)
    # PyTorch's own rounding: floor(i * source / target) in fp32 differs from it in integers for some sizes.
    read = F.interpolate(pixels[None, None].float(), size=target, mode="nearest")[0, 0].long()
    first = (read[None] < pixels[:, None]).sum(dim=1)  # the first output of each input pixel
    slots = (first[:, None] + torch.arange(scale, device=device)).flatten().clamp(max=target - 1)
    places = read * scale + torch.arange(target, device=device) - first[read]
    return slots, places
