# SPDX-License-Identifier: Apache-2.0
"""Attention of every pixel of a pyramid to a few places beside its own position on every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion import native
from freqfusion.ops.autograd import differentiate_through, widen_under_autocast


def check_arguments(value: Tensor, offsets: Tensor, logits: Tensor, sizes: Sequence[int]) -> None:
    """Raises ``ValueError`` unless ``deformable_attention`` can run on these arguments."""
    for name, tensor in (("value", value), ("offsets", offsets), ("logits", logits)):
        if tensor.dim() != 4:
            raise ValueError(f"deformable_attention: {name} must have four dimensions, got {tensor.dim()}")
        if tensor.dtype != value.dtype:
            raise ValueError(f"deformable_attention: {name} must be {value.dtype} as value is, got {tensor.dtype}")
    if not sizes or len(sizes) % 2 or any(size < 1 for size in sizes):
        raise ValueError(
            f"deformable_attention: sizes must be positive pairs, a height and a width a level, got {list(sizes)}"
        )
    n, tokens, heads, _ = value.shape
    levels = len(sizes) // 2
    expected = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
    if tokens != expected:
        raise ValueError(
            f"deformable_attention: value must have {expected} tokens for levels of {list(sizes)}, got {tokens}"
        )
    if tuple(logits.shape[:3]) != (n, tokens, heads) or logits.shape[3] < 1 or logits.shape[3] % levels:
        raise ValueError(
            f"deformable_attention: logits must have shape ({n}, {tokens}, {heads}, {levels} * points) for value "
            f"{tuple(value.shape)} on {levels} levels, got {tuple(logits.shape)}"
        )
    if tuple(offsets.shape) != (n, tokens, heads, 2 * logits.shape[3]):
        raise ValueError(
            f"deformable_attention: offsets must have shape {(n, tokens, heads, 2 * logits.shape[3])} for logits "
            f"{tuple(logits.shape)}, got {tuple(offsets.shape)}"
        )


def pixel_centres(sizes: Sequence[int], like: Tensor) -> Tensor:
    """The centre of every pixel of every level, ``(tokens, 2)``: x, y as shares of its level's width and height."""
    centres = []
    for h, w in zip(sizes[::2], sizes[1::2], strict=True):
        y = (torch.arange(h, device=like.device).to(like.dtype) + 0.5) / h
        x = (torch.arange(w, device=like.device).to(like.dtype) + 0.5) / w
        centres.append(torch.stack((x.repeat(h), y.repeat_interleave(w)), dim=-1))
    return torch.cat(centres)


def attend(value: Tensor, offsets: Tensor, logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Defines the operator with ``grid_sample``, level by level; fp32 at least."""
    n, tokens, heads, dim = value.shape
    levels = len(sizes) // 2
    exact = torch.promote_types(value.dtype, torch.float32)
    weights = logits.to(exact).softmax(dim=-1).unflatten(3, (levels, -1))  # (N, T, M, L, P)
    moves = offsets.to(exact).unflatten(3, (levels, -1, 2))  # (N, T, M, L, P, xy)
    centres = pixel_centres(sizes, weights)[:, None, None]
    total = torch.zeros((n * heads, dim, tokens), dtype=exact, device=value.device)
    start = 0
    for level, (h, w) in enumerate(zip(sizes[::2], sizes[1::2], strict=True)):
        end = start + h * w
        grid = 2 * (centres + moves[:, :, :, level] / moves.new_tensor([w, h])) - 1  # (N, T, M, P, xy)
        grid = grid.transpose(1, 2).flatten(0, 1)  # (N*M, T, P, xy)
        maps = value[:, start:end].to(exact).permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (h, w))
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        total = total + (sampled * share).sum(dim=3)
        start = end
    return total.reshape(n, heads, dim, tokens).permute(0, 3, 1, 2).to(value.dtype)


@torch.library.custom_op("freqfusion::deformable_attention", mutates_args=())
def deformable_attention(value: Tensor, offsets: Tensor, logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Lets every token of a pyramid gather from places that it chose itself, on all levels.

    Queries and values are the same tokens: the pixels of all levels, one level after the other, each row by row. Token
    ``t`` sits at its own pixel's centre; on each level it reads ``points`` places around the same relative position and
    sums them with weights that add up to one.

    Args:
        value: ``(N, T, M, D)``, any floating dtype; M heads of D channels. All arithmetic is fp32 for half types.
        offsets: ``(N, T, M, L * P * 2)``, dtype of ``value``: level, point, (x, y), in pixels of the level read.
        logits: ``(N, T, M, L * P)``, dtype of ``value``; the softmax runs over all levels and points of a head.
        sizes: Height and width of each of the L levels, ``(h0, w0, h1, w1, ...)``; T is the sum of their areas.

    Returns:
        ``(N, T, M, D)``, contiguous, dtype of ``value``. A token at column ``c`` of a level ``w`` pixels wide reads a
        level ``W`` wide at ``x = (c + 0.5) * W / w + offset_x - 0.5``, y alike, bilinearly; pixels outside the level
        count as zero.

    Raises:
        ValueError: If the shapes above do not fit together.

    Source: ``MSDeformAttn`` of Deformable DETR (ICLR 2021), as Mask2Former's encoder calls it: every token is a query
    and its reference point is its own pixel's centre (the valid ratios are 1), so that reference points need not be
    passed. The official code disables autocast around it; so does this one (fp32 under autocast).
    """
    check_arguments(value, offsets, logits, sizes)
    result = native.deformable_attention(value, offsets, logits, sizes)
    return attend(value, offsets, logits, sizes).contiguous() if result is None else result


@deformable_attention.register_fake
def _(value: Tensor, offsets: Tensor, logits: Tensor, sizes: Sequence[int]) -> Tensor:
    check_arguments(value, offsets, logits, sizes)
    return value.new_empty(value.shape)


differentiate_through(deformable_attention, attend, tensors=3)
widen_under_autocast(deformable_attention)
