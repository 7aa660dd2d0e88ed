# SPDX-License-Identifier: Apache-2.0
"""Sizes that the kernels are checked with: odd, tiny, grouped, batched, wider than blocks, and real ones."""

from __future__ import annotations

import torch
from torch import Tensor

# N, C, H, W, kernel size, groups, scale, and 1 where the map is reflected outside
REASSEMBLY_SMALL = [
    (1, 1, 1, 1, 5, 1, 2),
    (0, 8, 4, 4, 3, 1, 2),
    (1, 8, 0, 4, 3, 1, 2),
    (2, 8, 4, 8, 5, 1, 2),
    (1, 13, 3, 7, 5, 1, 2),
    (1, 24, 5, 36, 5, 1, 2),
    (2, 48, 3, 33, 3, 1, 2),
    (1, 40, 3, 42, 3, 5, 2),
    (1, 32, 2, 64, 5, 2, 2),
    (1, 70, 7, 20, 5, 1, 2),
    (1, 112, 3, 70, 5, 1, 2),
    (1, 104, 5, 72, 3, 1, 2),
    (1, 12, 3, 10, 3, 4, 2),
    (2, 16, 3, 9, 3, 1, 1),
    (1, 7, 9, 34, 5, 1, 1),
    (1, 72, 2, 5, 3, 9, 1),
    (1, 9, 3, 5, 7, 3, 1),
    (1, 16, 3, 3, 3, 2, 3),
    (1, 8, 2, 3, 9, 1, 2),
    (1, 3, 2, 2, 31, 1, 1),
    (1, 8, 3, 8, 5, 1, 2, 1),
    (2, 13, 5, 7, 5, 1, 2, 1),
    (1, 24, 4, 36, 3, 1, 2, 1),
    (1, 40, 3, 42, 3, 5, 2, 1),
    (1, 104, 5, 66, 5, 1, 2, 1),
    (1, 16, 2, 2, 3, 2, 2, 1),
    (2, 16, 3, 9, 3, 1, 1, 1),
    (1, 7, 9, 34, 5, 1, 1, 1),
    (1, 9, 4, 5, 7, 3, 1, 1),
    (1, 16, 3, 3, 3, 2, 3, 1),
]
REASSEMBLY_LARGE = [
    (1, 256, 64, 64, 5, 1, 2),
    (1, 256, 32, 48, 5, 4, 2),
    (2, 416, 32, 24, 5, 1, 2),
    (1, 160, 61, 53, 3, 1, 2),
    (3, 64, 50, 67, 3, 1, 1),
    (1, 120, 128, 128, 3, 1, 1),
    (1, 25, 64, 64, 5, 1, 2),
    (1, 64, 40, 40, 7, 1, 2),
    (70000, 8, 1, 1, 3, 1, 2),
    (1, 256, 64, 64, 5, 1, 2, 1),
    (1, 160, 61, 53, 3, 1, 2, 1),
    (3, 64, 50, 67, 3, 1, 1, 1),
]
# N, C, H, W, kernel size, dilation
SIMILARITY_SMALL = [
    (1, 1, 1, 1, 3, 2),
    (0, 8, 4, 4, 3, 2),
    (1, 0, 3, 4, 3, 2),
    (2, 13, 5, 7, 3, 2),
    (1, 16, 3, 66, 3, 2),
    (1, 72, 4, 34, 3, 2),
    (1, 9, 7, 6, 5, 1),
    (1, 64, 2, 3, 3, 1),
    (1, 20, 9, 8, 7, 3),
]
SIMILARITY_LARGE = [
    (1, 104, 64, 64, 3, 2),
    (2, 120, 33, 129, 3, 2),
    (1, 256, 128, 128, 3, 2),
    (70000, 3, 1, 2, 3, 2),
]
# N, C, h, w (of the offsets), groups
RESAMPLE_SMALL = [
    (1, 4, 1, 1, 4),
    (0, 8, 2, 2, 4),
    (2, 12, 3, 5, 4),
    (1, 64, 3, 7, 4),
    (1, 13, 2, 3, 1),
    (1, 40, 5, 2, 2),
]
RESAMPLE_LARGE = [
    (1, 256, 64, 64, 4),
    (2, 416, 17, 33, 4),
    (1, 64, 128, 128, 4),
    (70000, 4, 1, 1, 4),
]
# N, C, H, W of the finest map (each further one has half of both), boxes of an image, cells
PYRAMID_SMALL = [
    (1, 1, 1, 1, 6, 1),
    (0, 4, 8, 8, 3, 7),
    (1, 4, 8, 8, 0, 7),
    (2, 5, 20, 32, 12, 7),
    (1, 3, 7, 60, 9, 14),
    (1, 2, 33, 9, 9, 5),
]
PYRAMID_LARGE = [
    (2, 256, 128, 160, 100, 7),
    (1, 256, 200, 336, 100, 14),
    (1, 7, 64, 64, 2000, 1),
]
PYRAMID_STRIDE, PYRAMID_SCALE = 4, 8  # of the finest map; the side, in image pixels, whose double level 1 begins at
# N, heads, channels of a head, points, height and width of every level
ATTENTION_SMALL = [
    (1, 1, 1, 1, 1, 1),
    (0, 2, 8, 4, 2, 3, 1, 1),
    (1, 2, 0, 4, 2, 3),
    (2, 3, 8, 4, 2, 3, 5, 4, 3, 7),
    (1, 8, 32, 4, 1, 2, 3, 3),
    (1, 2, 13, 5, 4, 5, 2, 1),
    (1, 1, 16, 32, 1, 2, 2, 2, 1, 1, 3, 1, 1, 2, 1, 1, 2, 1, 1, 1),
]
ATTENTION_LARGE = [
    (1, 8, 32, 4, 20, 20, 40, 40, 80, 80),
    (2, 8, 32, 4, 17, 30, 33, 61, 64, 121),
    (1, 5, 40, 8, 64, 96),
    (3000, 2, 4, 2, 1, 2, 2, 3),
]
# N, queries, classes, h, w, padded height and width, kept height and width, output height and width
QUERY_SMALL = [
    (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    (0, 3, 4, 2, 2, 8, 8, 7, 7, 5, 5),
    (2, 7, 19, 3, 5, 12, 20, 11, 17, 11, 17),
    (1, 20, 9, 4, 6, 16, 24, 13, 23, 31, 50),
    (1, 5, 170, 4, 5, 16, 20, 15, 19, 6, 7),
    (1, 3, 4, 9, 2, 5, 8, 5, 7, 40, 2),
    (1, 17, 5, 2, 3, 8, 12, 8, 12, 8, 5),
]
QUERY_LARGE = [
    (1, 100, 150, 160, 216, 640, 864, 640, 853, 480, 640),
    (2, 100, 150, 32, 40, 128, 160, 120, 150, 333, 500),
    (1, 200, 400, 20, 24, 80, 96, 80, 90, 80, 90),
    (70000, 2, 3, 1, 1, 4, 4, 2, 3, 2, 1),
]
# N, classes, h, w, step height, step width, output height, output width, align_corners
RESIZE_SMALL = [
    (1, 1, 1, 1, 1, 1, 1, 1, 0),
    (0, 5, 4, 4, 8, 8, 8, 8, 0),
    (2, 19, 3, 5, 24, 40, 24, 40, 0),
    (1, 37, 4, 6, 32, 48, 25, 61, 0),
    (1, 17, 5, 4, 17, 9, 33, 21, 1),
    (1, 5, 30, 41, 11, 9, 7, 3, 0),
    (1, 3, 2, 900, 2, 900, 1, 280, 0),
    (1, 18, 2, 33, 3, 300, 2, 270, 0),
]
RESIZE_LARGE = [
    (1, 150, 64, 64, 512, 512, 512, 512, 0),
    (1, 150, 64, 64, 512, 512, 375, 500, 0),
    (2, 19, 128, 256, 1024, 2048, 1024, 2048, 0),
    (1, 21, 65, 65, 513, 513, 366, 500, 1),
    (70000, 4, 1, 2, 2, 4, 2, 4, 0),
]

HAMMING = {
    3: [0.08, 1.0, 0.08],
    5: [0.08, 0.54, 1.0, 0.54, 0.08],
}


def window_of(kernel_size: int, is_plain: bool) -> list[float]:
    """The checkpoint's Hamming window where there is one, else one whose values all differ; or ones."""
    if is_plain:
        return [1.0] * kernel_size**2
    side = HAMMING.get(kernel_size, [0.1 + 0.9 * i / kernel_size for i in range(kernel_size)])
    return [a * b for a in side for b in side]


def pyramid(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
    """Four maps, and boxes ``(N, M, 4)`` half a pixel to twice the image a side, some beyond it, each sixth empty."""
    n, c, h, w, m, _ = sizes
    generator = torch.Generator(device).manual_seed(7)
    maps = [
        torch.randn(n, c, max(h >> level, 1), max(w >> level, 1), generator=generator, device=device).to(dtype)
        for level in range(4)
    ]
    image = torch.tensor([w, h], device=device) * float(PYRAMID_STRIDE)
    random = torch.rand(n, m, 2, 2, generator=generator, device=device)
    sides = 0.5 * (4 * image) ** random[:, :, 0]
    sides[:, ::6] *= 0
    centres = (1.4 * random[:, :, 1] - 0.2) * image
    return maps, torch.cat([centres - sides / 2, centres + sides / 2], dim=2)


def attention(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Value, offsets of some pixels, and logits."""
    n, heads, channels, points, *levels = sizes
    generator = torch.Generator(device).manual_seed(8)
    tokens = sum(h * w for h, w in zip(levels[::2], levels[1::2], strict=True))
    places = len(levels) // 2 * points
    value, offsets, logits = (
        torch.randn(n, tokens, heads, last, generator=generator, device=device)
        for last in (channels, 2 * places, places)
    )
    return value.to(dtype), (3 * offsets).to(dtype), (2 * logits).to(dtype)
