# SPDX-License-Identifier: Apache-2.0
"""The networks as a newcomer would export them: CARAFE and similarity by ``unfold``, places read by ``grid_sample``.

The baseline of the benchmarks; nothing else uses it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import freqfusion.mask2former.deformable_encoder
import freqfusion.predicted_filters
import freqfusion.sampler
import torch
import torch.nn.functional as F
from freqfusion.ops.deformable_attention import attend
from freqfusion.ops.offset_resample import sample
from freqfusion.ops.padding import pad
from torch import Tensor, nn


@contextmanager
def naive_operators() -> Iterator[None]:
    """Replaces the operators of the networks' modules while the block runs."""
    with replaced(
        (freqfusion.predicted_filters, "adaptive_filter", adaptive_filter),
        (freqfusion.sampler, "local_similarity", local_similarity),
        (freqfusion.sampler, "offset_resample", sample),
        (freqfusion.mask2former.deformable_encoder, "deformable_attention", attend),
    ):
        yield


@contextmanager
def replaced(*places: tuple[Any, str, Any]) -> Iterator[None]:
    """Puts functions, each at an attribute of a module or a class, while the block runs."""
    originals = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, function in places:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name, _), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


def export_naively(
    network: nn.Module, path: str, positional: tuple[Tensor, ...], named: Mapping[str, Tensor], dynamo: bool
) -> None:
    """Exports a network by torch alone, at one size.

    Args:
        network: In evaluation mode.
        path: The file.
        positional: Its inputs, or none where ``forward`` takes them by name.
        named: The same by name.
        dynamo: By which of torch's two exporters.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            positional,
            path,
            kwargs=None if positional else dict(named),
            dynamo=dynamo,
            opset_version=18,
            input_names=list(named),
            verbose=False,
            external_data=False,
        )


def adaptive_filter(
    features: Tensor,
    logits: Tensor,
    window: Sequence[float],
    kernel_size: int,
    groups: int,
    scale: int,
    mode: int,
    padding: int,
) -> Tensor:
    """``freqfusion.ops.adaptive_filter`` for one group."""
    mask = logits.softmax(dim=1)
    if any(factor != 1.0 for factor in window):
        mask = mask * torch.tensor(window).view(1, -1, 1, 1)
        mask = mask / mask.sum(dim=1, keepdim=True)
    n, c, h, w = features.shape
    windows = F.unfold(pad(features, kernel_size // 2, padding), kernel_size).view(n, c * kernel_size**2, h, w)
    if scale > 1:
        windows = F.interpolate(windows, scale_factor=scale, mode="nearest")
    lowpass = (windows.view(n, c, kernel_size**2, h * scale, w * scale) * mask.unsqueeze(1)).sum(dim=2)
    return mode * features - lowpass if mode else lowpass


def local_similarity(features: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """``freqfusion.ops.local_similarity``."""
    n, c, h, w = features.shape
    windows = F.unfold(features, kernel_size, dilation=dilation, padding=kernel_size // 2 * dilation)
    windows = windows.view(n, c, kernel_size**2, h, w)
    centre = kernel_size**2 // 2
    neighbours = torch.cat((windows[:, :, :centre], windows[:, :, centre + 1 :]), dim=2)
    return F.cosine_similarity(neighbours, features.unsqueeze(2), dim=1)
