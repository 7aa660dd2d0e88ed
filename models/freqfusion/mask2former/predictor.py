# SPDX-License-Identifier: Apache-2.0
"""The transformer decoder: a hundred queries each find one kind of thing and where it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.mask2former.sine_positions import sine_positions

HEADS = 8
LEVELS = 3


class _Attention(nn.Module):
    """Multi-head attention in the names of ``nn.MultiheadAttention``, of which export makes plain products."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Attends from ``(N, Q, C)`` to ``(N, K, C)``, but for the keys that ``hidden`` ``(N, 1, Q, K)`` says."""
        n, _, channels = queries.shape
        projected = [
            F.linear(x, weight, bias).reshape(n, -1, HEADS, channels // HEADS).transpose(1, 2)
            for x, weight, bias in zip(
                (queries, keys, values), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True
            )
        ]
        q, k, v = projected
        scores = (q * (channels // HEADS) ** -0.5) @ k.transpose(-2, -1)
        if hidden is not None:
            # Added, not selected: ONNX Runtime's Where over all heads takes four times as long as one over a mask's and
            # a sum.
            scores = scores + scores.new_zeros(()).masked_fill(hidden, -torch.inf)
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, -1, channels)
        out: Tensor = self.out_proj(mixed)
        return out


class _SelfAttentionLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.self_attn = _Attention(channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        placed = x + positions
        y: Tensor = self.norm(x + self.self_attn(placed, placed, x))
        return y


class _CrossAttentionLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.multihead_attn = _Attention(channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
        y: Tensor = self.norm(x + self.multihead_attn(x + positions, keys, values, hidden))
        return y


class _FeedForwardLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, 8 * channels)
        self.linear2 = nn.Linear(8 * channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x + self.linear2(F.relu(self.linear1(x))))
        return y


class _MaskEmbedding(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        y: Tensor = last(F.relu(second(F.relu(first(x)))))
        return y


class HiddenKeys(nn.Module):
    """Says which keys a query does not look at: those outside its mask, but none if all are.

    Args:
        logits: ``(N, Q, K)`` of its mask at the keys.

    Returns:
        ``(N, Q, K)`` bool. No row is all True, so a softmax over what is left is defined.

    Source: official code clears such rows in place, by positions that depend on the data. An official key is hidden
    where the sigmoid is below 0.5; rounding makes that 0.5 for logits above -1e-7.
    """

    def forward(self, logits: Tensor) -> Tensor:
        return (logits < 0) & (logits.amax(dim=-1, keepdim=True) >= 0)


class Predictor(nn.Module):
    """Lets queries look at the maps, from coarse to fine and again, each only where its mask so far is.

    Args:
        num_classes: Classes, without the one for nothing.
        num_queries: Queries.
        channels: Of queries and maps.
        layers: Of attention; layer ``i`` looks at map ``i`` modulo 3.

    Source: ``MultiScaleMaskedTransformerDecoder`` in the official ``Mask2Former`` folder. The masks that hide keys are
    products with features resized once for each map, in place of whole masks resized in each layer: resizing is linear.
    """

    def __init__(self, num_classes: int, num_queries: int = 100, channels: int = 256, layers: int = 9) -> None:
        super().__init__()
        self.transformer_self_attention_layers = nn.ModuleList(_SelfAttentionLayer(channels) for _ in range(layers))
        self.transformer_cross_attention_layers = nn.ModuleList(_CrossAttentionLayer(channels) for _ in range(layers))
        self.transformer_ffn_layers = nn.ModuleList(_FeedForwardLayer(channels) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(channels)
        self.query_feat = nn.Embedding(num_queries, channels)
        self.query_embed = nn.Embedding(num_queries, channels)
        self.level_embed = nn.Embedding(LEVELS, channels)
        self.class_embed = nn.Linear(channels, num_classes + 1)
        self.mask_embed = _MaskEmbedding(channels)
        self.hidden_keys = HiddenKeys()

    def forward(self, features: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Finds.

        Args:
            features: ``(N, C, H/4, W/4)``.
            maps: ``(N, C, h, w)`` at strides 32, 16 and 8.

        Returns:
            Mask logits ``(N, num_queries, H/4, W/4)``, and class logits ``(N, num_queries, num_classes + 1)``, the
            last that a query found nothing.
        """
        values = [x.flatten(2).transpose(1, 2) + self.level_embed.weight[i] for i, x in enumerate(maps)]
        keys = [x + sine_positions(m.shape[2], m.shape[3], x.shape[2], x) for x, m in zip(values, maps, strict=True)]
        small = [self._resized(features, 8 >> i).flatten(2) for i in range(LEVELS)]
        positions = self.query_embed.weight
        x = self.query_feat.weight.expand(features.shape[0], -1, -1)
        for i, (cross, own, further) in enumerate(
            zip(
                self.transformer_cross_attention_layers,
                self.transformer_self_attention_layers,
                self.transformer_ffn_layers,
                strict=True,
            )
        ):
            level = i % LEVELS
            hidden = self.hidden_keys(self.mask_embed(self.decoder_norm(x)) @ small[level])
            x = cross(x, positions, keys[level], values[level], hidden[:, None])
            x = further(own(x, positions))
        found = self.decoder_norm(x)
        masks = self.mask_embed(found) @ features.flatten(2)
        return masks.unflatten(2, features.shape[2:]), self.class_embed(found)

    @staticmethod
    def _resized(features: Tensor, factor: int) -> Tensor:
        """Resizes bilinearly to a ``factor``-th: of so many pixels along each axis, the mean of the middle two."""
        margin = factor // 2 - 1
        return F.avg_pool2d(features[:, :, margin:, margin:], 2, stride=factor)
