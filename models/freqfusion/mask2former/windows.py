# SPDX-License-Identifier: Apache-2.0
"""Which token of a map lies where in Swin's windows, and which tokens of a shifted window may see each other.

Everything is computed from the map's size in the graph, so that an exported network takes any size and any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OTHER_REGION = -100.0  # added to the scores of tokens that a shift only made neighbours; the official value


@dataclass(frozen=True)
class Windows:
    """Windows of ``S x S`` tokens over a map of ``h x w``, padded to whole windows below and at the right.

    Attributes:
        tokens: ``(windows * S**2,)`` int64: the map's token at each place of each window, row by row; ``h * w`` for
            padding, so that tokens are gathered from a list that holds the padding's behind the map's.
        places: ``(h * w,)`` int64: the place among ``tokens`` of each of the map's.
        mask: ``(windows, 1, S**2, S**2)``: what is added to the scores; None where nothing is.
    """

    tokens: Tensor
    places: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, height: int, width: int, size: int, shift: int, like: Tensor) -> Windows:
        """Lays out windows of ``size``, moved down and to the right by ``shift`` tokens.

        Source: the blocks' ``forward`` and ``BasicLayer`` in detectron2's flavour of Swin. There the map is rolled,
        which is done here by indices: padding, rolling and cutting into windows are one gather. As there, a map
        smaller than a window is padded to one, and shifted all the same.
        """
        rows, columns = _Axis(height, size, shift, like.device), _Axis(width, size, shift, like.device)
        y, x = rows.source[:, None], columns.source
        token = torch.where((y < height) & (x < width), y * width + x, height * width)
        place = (rows.window[:, None] * columns.count + columns.window) * size**2
        place = place + rows.inside[:, None] * size + columns.inside
        mask = None
        if shift:
            region = _by_window(rows.region[:, None] * 3 + columns.region, rows.count, columns.count, size)
            region = region.reshape(-1, 1, size**2)
            mask = (region != region.transpose(1, 2)).to(like.dtype)[:, None] * OTHER_REGION
        return cls(_by_window(token, rows.count, columns.count, size).reshape(-1), place.reshape(-1), mask)


class _Axis:
    """One axis of a map: what is read at each place of the shifted, padded axis, and where each token went.

    Attributes:
        count: Windows.
        source: ``(padded,)``: the token read at each place; those from the axis' extent on are padding.
        region: ``(padded,)``: 0, 1 or 2, unequal where only the shift made neighbours.
        window, inside: ``(extent,)``: the window of each token, and its place in it.
    """

    def __init__(self, extent: int, size: int, shift: int, device: torch.device) -> None:
        self.count = (extent + size - 1) // size
        padded = self.count * size
        place = torch.arange(padded, device=device)
        self.source = _wrapped(place + shift, padded)
        self.region = (place >= padded - size).long() + (place >= padded - shift).long()
        moved = _wrapped(torch.arange(extent, device=device) + (padded - shift), padded)
        self.window, self.inside = moved // size, moved % size


def _wrapped(places: Tensor, extent: int) -> Tensor:
    """Places up to twice an extent, modulo it; the exporter has no modulo for sizes that are symbols."""
    return torch.where(places < extent, places, places - extent)


def _by_window(values: Tensor, rows: int, columns: int, size: int) -> Tensor:
    """Reorders ``(rows * size, columns * size)`` values to ``(rows, columns, size, size)``."""
    return values.reshape(rows, size, columns, size).permute(0, 2, 1, 3)
