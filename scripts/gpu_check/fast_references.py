# SPDX-License-Identifier: Apache-2.0
"""The definitions of tests/references.py in float64 without loops over pixels, for sizes where those take hours.

Every function takes and gives float64 tensors of any device; ``--self-test`` compares them with the loops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def carafe(x: Tensor, m: Tensor, kernel_size: int, groups: int, scale: int, padding: int = 0) -> Tensor:
    n, c, h, w = x.shape
    radius = kernel_size // 2
    padded = F.pad(x, [radius] * 4, "reflect" if padding and radius else "constant")
    taps = m.view(n, groups, kernel_size**2, scale * h, scale * w)
    out = x.new_zeros(n, groups, c // groups, scale * h, scale * w)
    for ky, kx in itertools.product(range(kernel_size), repeat=2):
        window = padded[:, :, ky : ky + h, kx : kx + w].repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        out += window.view(out.shape) * taps[:, :, ky * kernel_size + kx].unsqueeze(2)
    return out.view(n, c, scale * h, scale * w)


def pyramid_roi_align(
    maps: Sequence[Tensor], boxes: Tensor, cells: int, finest_stride: int, finest_scale: int
) -> Tensor:
    found = [maps[0].new_zeros(0, maps[0].shape[1], cells, cells)]
    for image, own in enumerate(boxes.tolist()):
        for x1, y1, x2, y2 in own:
            relative = math.sqrt(max((x2 - x1) * (y2 - y1), 0.0)) / finest_scale + 1e-6
            level = sum(relative >= bound for bound in (2, 4, 8))
            x, stride = maps[level][image], finest_stride << level
            rows = _cell_weights(y1 / stride, y2 / stride, x.shape[1], cells).to(x.device)
            columns = _cell_weights(x1 / stride, x2 / stride, x.shape[2], cells).to(x.device)
            found.append((rows @ x @ columns.T)[None])
    return torch.cat(found)


def _cell_weights(low: float, high: float, size: int, cells: int) -> Tensor:
    """What each of ``size`` pixels gives to the average of each cell between two places on one axis."""
    weights = torch.zeros(cells, size, dtype=torch.float64)
    extent = (high - low) / cells
    count = math.ceil(extent)
    for cell, i in itertools.product(range(cells), range(count)):
        at = low - 0.5 + (cell + (i + 0.5) / count) * extent
        if -1 <= at <= size:
            at = min(max(at, 0.0), size - 1.0)
            first = int(at)
            weights[cell, first] += (1 - (at - first)) / count
            weights[cell, min(first + 1, size - 1)] += (at - first) / count
    return weights


def normalize_taps(logits: Tensor, window: Sequence[float], kernel_size: int) -> Tensor:
    factors = torch.tensor(window, dtype=torch.float64, device=logits.device).view(-1, 1, 1)
    taps = logits.unflatten(1, (-1, kernel_size**2)).softmax(dim=2) * factors
    return (taps / taps.sum(dim=2, keepdim=True)).flatten(1, 2)


def adaptive_filter(
    x: Tensor, logits: Tensor, window: Sequence[float], kernel_size: int, groups: int, scale: int, mode: int
) -> Tensor:
    lowpass = carafe(x, normalize_taps(logits, window, kernel_size), kernel_size, groups, scale)
    return (lowpass, x - lowpass, 2 * x - lowpass)[mode] if mode else lowpass


def local_similarity(x: Tensor, kernel_size: int, dilation: int) -> Tensor:
    _, _, h, w = x.shape
    reach = kernel_size // 2 * dilation
    norms = x.square().sum(dim=1).sqrt()
    padded, padded_norms = F.pad(x, [reach] * 4), F.pad(norms, [reach] * 4)
    out = []
    for ky, kx in itertools.product(range(kernel_size), repeat=2):
        if ky == kx == kernel_size // 2:
            continue
        rows, columns = slice(ky * dilation, ky * dilation + h), slice(kx * dilation, kx * dilation + w)
        dots = (x * padded[:, :, rows, columns]).sum(dim=1)
        out.append(dots / (norms.clamp(min=1e-8) * padded_norms[:, rows, columns].clamp(min=1e-8)))
    return torch.stack(out, dim=1)


def deformable_attention(value: Tensor, offsets: Tensor, logits: Tensor, sizes: Sequence[int]) -> Tensor:
    n, tokens, heads, dim = value.shape
    levels = list(zip(sizes[::2], sizes[1::2], strict=True))
    points = logits.shape[3] // len(levels)
    weights = logits.softmax(dim=3).view(n, tokens, heads, len(levels), points)
    moves = offsets.view(n, tokens, heads, len(levels), points, 2)
    centres = [
        torch.cartesian_prod(*((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in (h, w))).view(-1, 2)
        for h, w in levels
    ]
    centre = torch.cat(centres).to(value.device)[None, :, None, None]  # y, x
    out, start = torch.zeros_like(value), 0
    for level, (h, w) in enumerate(levels):
        own = value[:, start : start + h * w].permute(0, 2, 1, 3)  # (N, heads, h * w, dim)
        x, y = (
            centre[..., 1] * w + moves[:, :, :, level, :, 0] - 0.5,
            centre[..., 0] * h + moves[:, :, :, level, :, 1] - 0.5,
        )
        for i, j in itertools.product((0, 1), repeat=2):
            row, column = y.floor() + i, x.floor() + j
            share = (1 - (y - row).abs()) * (1 - (x - column).abs()) * weights[:, :, :, level]
            share = torch.where((row >= 0) & (row < h) & (column >= 0) & (column < w), share, 0.0)
            index = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long().permute(0, 2, 1, 3)
            picked = own.gather(2, index.flatten(2)[..., None].expand(-1, -1, -1, dim))
            picked = picked.view(n, heads, tokens, points, dim) * share.permute(0, 2, 1, 3)[..., None]
            out += picked.sum(dim=3).permute(0, 2, 1, 3)
        start += h * w
    return out


def query_scores(masks: Tensor, classes: Tensor, sizes: Sequence[int]) -> Tensor:
    padded = resized_scores(masks, (*sizes[:2], *sizes[:2]), False)[:, :, : sizes[2], : sizes[3]]
    scores = torch.einsum("nqc,nqhw->nchw", classes.softmax(dim=2)[..., :-1], padded.sigmoid())
    return resized_scores(scores, (*sizes[4:], *sizes[4:]), False)


def offset_resample(x: Tensor, offsets: Tensor, groups: int) -> Tensor:
    n, c, height, width = x.shape
    h, w = height // 2, width // 2
    cells = offsets.view(n, 2, groups, 2, 2, h, w).permute(1, 0, 2, 5, 3, 6, 4).reshape(2, n, groups, height, width)
    rows = torch.arange(height, device=x.device, dtype=torch.float64).view(-1, 1).div(2, rounding_mode="floor")
    columns = torch.arange(width, device=x.device, dtype=torch.float64).div(2, rounding_mode="floor")
    px = (2 * (columns + 0.5 + cells[0]) - 0.5).clamp(0, width - 1)
    py = (2 * (rows + 0.5 + cells[1]) - 0.5).clamp(0, height - 1)
    x0, y0 = px.long(), py.long()
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    flat = x.view(n, groups, c // groups, height * width)

    def corner(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).view(n, groups, 1, height * width).expand(flat.shape)
        return flat.gather(3, index).view(n, groups, c // groups, height, width)

    fx, fy = (px - x0).unsqueeze(2), (py - y0).unsqueeze(2)
    top = corner(y0, x0) * (1 - fx) + corner(y0, x1) * fx
    bottom = corner(y1, x0) * (1 - fx) + corner(y1, x1) * fx
    return (top * (1 - fy) + bottom * fy).view(x.shape)


def resize_matrix(source: int, target: int, align_corners: bool) -> Tensor:
    index = torch.arange(target, dtype=torch.float64)
    if align_corners:
        position = index * (source - 1) / (target - 1) if target > 1 else torch.zeros(1, dtype=torch.float64)
    else:
        position = ((index + 0.5) * source / target - 0.5).clamp(min=0)
    low = position.long().clamp(max=source - 1)
    matrix = torch.zeros(target, source, dtype=torch.float64)
    row = torch.arange(target)
    matrix.index_put_((row, low), 1 - (position - low), accumulate=True)
    matrix.index_put_((row, (low + 1).clamp(max=source - 1)), position - low, accumulate=True)
    return matrix


def resized_scores(scores: Tensor, sizes: Sequence[int], align_corners: bool) -> Tensor:
    for height, width in (sizes[:2], sizes[2:]):
        rows = resize_matrix(scores.shape[2], height, align_corners).to(scores.device)
        columns = resize_matrix(scores.shape[3], width, align_corners).to(scores.device)
        scores = torch.matmul(torch.matmul(rows, scores), columns.T)
    return scores
