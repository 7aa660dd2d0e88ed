# SPDX-License-Identifier: Apache-2.0
"""Mask2Former computed in the order of its official code, where ours saves work: the baseline of the benchmarks.

Source: ``SwinTransformerBlock`` and ``MultiScaleMaskedTransformerDecoder`` in the official ``Mask2Former`` folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from freqfusion.mask2former.predictor import LEVELS, Predictor
from freqfusion.mask2former.sine_positions import sine_positions
from freqfusion.mask2former.swin import _WindowAttention
from freqfusion.mask2former.windows import Windows
from torch import Tensor

from freqfusion_export.bench.naive import naive_operators, replaced


@contextmanager
def official_formulation() -> Iterator[None]:
    """Replaces what our network does otherwise while the block runs, FreqFusion's operators included."""
    with naive_operators(), replaced((_WindowAttention, "forward", attend_padded), (Predictor, "forward", predict)):
        yield


def attend_padded(attention: Any, x: Tensor, windows: Windows) -> Tensor:
    """``_WindowAttention.forward``: padding goes through the linear layers, too."""
    n, _, channels = x.shape
    padded = F.pad(x, (0, 0, 0, 1)).index_select(1, windows.tokens)
    qkv = attention.qkv(padded).reshape(n, -1, attention.tokens, 3, attention.heads, channels // attention.heads)
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
    scores = (q * (channels // attention.heads) ** -0.5) @ k.transpose(-2, -1) + attention._bias()
    if windows.mask is not None:
        scores = scores + windows.mask
    mixed = (scores.softmax(dim=-1) @ v).transpose(2, 3).reshape(n, -1, channels)
    out: Tensor = attention.proj(mixed).index_select(1, windows.places)
    return out


def predict(predictor: Predictor, features: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """``Predictor.forward``: every layer makes whole masks and classes, and resizes the masks."""
    values = [x.flatten(2).transpose(1, 2) + predictor.level_embed.weight[i] for i, x in enumerate(maps)]
    keys = [x + sine_positions(m.shape[2], m.shape[3], x.shape[2], x) for x, m in zip(values, maps, strict=True)]

    def heads(x: Tensor) -> tuple[Tensor, Tensor]:
        found = predictor.decoder_norm(x)
        masks = (predictor.mask_embed(found) @ features.flatten(2)).unflatten(2, features.shape[2:])
        return masks, predictor.class_embed(found)

    positions = predictor.query_embed.weight
    x = predictor.query_feat.weight.expand(features.shape[0], -1, -1)
    masks, classes = heads(x)
    for i, (cross, own, further) in enumerate(
        zip(
            predictor.transformer_cross_attention_layers,
            predictor.transformer_self_attention_layers,
            predictor.transformer_ffn_layers,
            strict=True,
        )
    ):
        level = i % LEVELS
        small = F.interpolate(masks, maps[level].shape[2:], mode="bilinear", align_corners=False)
        hidden = predictor.hidden_keys(small.flatten(2))
        x = further(own(cross(x, positions, keys[level], values[level], hidden[:, None]), positions))
        masks, classes = heads(x)
    return masks, classes
