# SPDX-License-Identifier: Apache-2.0
"""Swin, the backbone of Mask2Former: attention within windows that every other block shifts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.mask2former.windows import Windows

MLP_RATIO = 4


class _WindowAttention(nn.Module):
    """Self-attention within windows of ``size x size`` tokens, biased by how far two tokens are apart."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = size**2
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * size - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _distances(size))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Lets ``x`` ``(N, tokens, C)`` attend within ``windows``.

        Padding is zeros behind the normalisation, so its key and value are the biases, and real tokens attend to it.
        """
        n, _, channels = x.shape
        with_padding = torch.cat((x, x.new_zeros(n, 1, channels)), dim=1)
        qkv = self.qkv(with_padding).index_select(1, windows.tokens)
        qkv = qkv.reshape(n, -1, self.tokens, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (N, windows, heads, tokens, head)
        scores = (q * (channels // self.heads) ** -0.5) @ k.transpose(-2, -1) + self._bias()
        if windows.mask is not None:
            scores = scores + windows.mask
        mixed = (scores.softmax(dim=-1) @ v).transpose(2, 3).reshape(n, -1, channels)
        out: Tensor = self.proj(mixed.index_select(1, windows.places))
        return out

    def _bias(self) -> Tensor:
        biases = self.relative_position_bias_table.index_select(0, self.relative_position_index.reshape(-1))
        return biases.reshape(self.tokens, self.tokens, self.heads).permute(2, 0, 1)


class _MLP(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, MLP_RATIO * channels)
        self.fc2 = nn.Linear(MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _WindowAttention(channels, heads, size)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _MLP(channels)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        x = x + self.attn(self.norm1(x), windows)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class _PatchMerging(nn.Module):
    """Halves a map: four neighbours become one token of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        cells = x.reshape(x.shape[0], height // 2, 2, width // 2, 2, x.shape[2])
        # Neighbours come column by column, as in the official code.
        merged: Tensor = self.reduction(self.norm(cells.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)))
        return merged


class _Stage(nn.Module):
    """Blocks at one resolution, every other one shifted by half a window."""

    def __init__(self, channels: int, depth: int, heads: int, size: int, is_last: bool) -> None:
        super().__init__()
        self.size = size
        self.blocks = nn.ModuleList(_Block(channels, heads, size) for _ in range(depth))
        self.downsample = None if is_last else _PatchMerging(channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        layouts = [Windows.of(height, width, self.size, shift, x) for shift in (0, self.size // 2)]
        for i, block in enumerate(self.blocks):
            x = block(x, layouts[i % 2])
        return x


class _PatchEmbedding(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(images).flatten(2).transpose(1, 2))
        return tokens


class Swin(nn.Module):
    """Turns images into four maps at strides 4, 8, 16 and 32, of C, 2C, 4C and 8C channels.

    Args:
        embed_dim: Channels C of the first map.
        depths: Blocks of each stage.
        num_heads: Heads of each stage; each divides its stage's channels.
        window_size: Side of the windows in tokens.

    Raises:
        ValueError: If the heads do not divide the channels.

    Source: ``D2SwinTransformer`` in the official ``Mask2Former`` folder, without absolute positions and dropout.
    """

    def __init__(self, embed_dim: int, depths: Sequence[int], num_heads: Sequence[int], window_size: int = 12) -> None:
        super().__init__()
        for stage, heads in enumerate(num_heads):
            if heads < 1 or embed_dim * 2**stage % heads:
                raise ValueError(
                    f"Swin: the heads of stage {stage} must divide its {embed_dim * 2**stage} channels, got {heads}"
                )
        self.patch_embed = _PatchEmbedding(embed_dim)
        self.layers = nn.ModuleList(
            _Stage(embed_dim * 2**stage, depth, heads, window_size, stage == 3)
            for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True))
        )
        for stage in range(4):
            self.add_module(f"norm{stage}", nn.LayerNorm(embed_dim * 2**stage))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the maps, fine to coarse, of ``images`` ``(N, 3, H, W)`` whose sides are multiples of 32."""
        height, width = images.shape[2] // 4, images.shape[3] // 4
        x = self.patch_embed(images)
        maps = []
        for stage, layer in enumerate(self.layers):
            x = layer(x, height, width)
            normed = self.get_submodule(f"norm{stage}")(x)
            maps.append(normed.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width))
            if stage < 3:  # merging reads what is not normalised
                x = layer.downsample(x, height, width)  # type: ignore[operator]
                height, width = height // 2, width // 2
        return maps


def _distances(size: int) -> Tensor:
    """The row of the bias table for each pair of tokens of a window: ``(size**2, size**2)`` int64."""
    place = torch.arange(size**2)
    y, x = place // size, place % size
    return (y[:, None] - y + size - 1) * (2 * size - 1) + (x[:, None] - x + size - 1)
