# SPDX-License-Identifier: Apache-2.0
"""The encoder of the pixel decoder: every pixel of three maps looks at a few predicted places in all three."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.mask2former.sine_positions import sine_positions
from freqfusion.ops.deformable_attention import deformable_attention

HEADS = 8
LEVELS = 3
POINTS = 4


class _DeformableAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sampling_offsets = nn.Linear(channels, HEADS * LEVELS * POINTS * 2)
        self.attention_weights = nn.Linear(channels, HEADS * LEVELS * POINTS)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def forward(self, queries: Tensor, tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        value = self.value_proj(tokens).unflatten(2, (HEADS, -1))
        offsets = self.sampling_offsets(queries).unflatten(2, (HEADS, -1))
        logits = self.attention_weights(queries).unflatten(2, (HEADS, -1))
        flat = [side for size in sizes for side in size]
        out: Tensor = self.output_proj(deformable_attention(value, offsets, logits, flat).flatten(2))
        return out


class _Layer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.self_attn = _DeformableAttention(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, positions: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        tokens = self.norm1(tokens + self.self_attn(tokens + positions, tokens, sizes))
        out: Tensor = self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))
        return out


class _Encoder(nn.Module):
    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(channels) for _ in range(layers))


class DeformableTransformer(nn.Module):
    """Layers of deformable attention over the pixels of three maps.

    Args:
        channels: Of the maps.
        layers: How many.

    Source: ``MSDeformAttnTransformerEncoderOnly`` of the official code; there is no padding between its maps here, so
    that all valid ratios are 1.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.empty(LEVELS, channels).normal_())
        self.encoder = _Encoder(channels, layers)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns three maps of the sizes of ``maps`` ``(N, C, h, w)``, in their order."""
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        positions = torch.cat(
            [sine_positions(*size, tokens.shape[2], tokens) + self.level_embed[i] for i, size in enumerate(sizes)]
        )
        for layer in self.encoder.layers:
            tokens = layer(tokens, positions, sizes)
        parts = tokens.split([h * w for h, w in sizes], dim=1)
        return [part.transpose(1, 2).reshape(x.shape) for part, x in zip(parts, maps, strict=True)]
