# SPDX-License-Identifier: Apache-2.0
"""Masks as COCO's run-length codes and back, without a loop over pixels.

A code lists the lengths of the runs outside and inside the mask in turn, down its columns; the first is outside and may
be 0. Compressed, from the fourth on each is the difference to the last but one, in 5 bits a character.

Source: ``maskApi.c`` of the COCO API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_PIXELS = (1 << 31) - 1  # lengths have 32 bits in the native code that reads them after us


class Runs:
    """A label map as runs of one label down its columns, which is the order of COCO's codes.

    Args:
        labels: ``(H, W)``, any integer dtype.
    """

    def __init__(self, labels: NDArray[Any]) -> None:
        self.size = (labels.shape[0], labels.shape[1])
        flat = labels.ravel(order="F")
        self._starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        self._ends = np.append(self._starts[1:], flat.size)
        self._labels = flat[self._starts]

    def counts(self, label: int) -> NDArray[np.int64]:
        """Lengths of the runs outside and inside ``label`` in turn, the first of them outside and maybe 0."""
        mine = self._labels == label
        edges = np.column_stack([self._starts[mine], self._ends[mine]]).ravel()
        total = self.size[0] * self.size[1]
        return _counts(edges, total)

    def code(self, label: int) -> dict[str, Any]:
        """COCO's compressed form: ``{"size": [H, W], "counts": "..."}``."""
        return {"size": list(self.size), "counts": compress(self.counts(label))}


def compress(counts: NDArray[np.int64]) -> str:
    """Writes run lengths as COCO does: from the fourth on as differences to the last but one, 5 bits a character.

    Source: ``rleToString`` of the COCO API.
    """
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    characters = np.empty((len(values), 13), np.uint8)  # 13 x 5 bits hold an int64
    lengths = np.zeros(len(values), np.int64)
    active = np.ones(len(values), bool)
    for position in range(13):
        bits = values & 0x1F
        values = values >> 5
        more = np.where(bits & 0x10, values != -1, values != 0)
        characters[:, position] = bits + 48 + np.where(more, 0x20, 0)
        lengths[active] += 1
        active &= more
        if not active.any():
            break
    kept = np.arange(13) < lengths[:, None]
    return characters[kept].tobytes().decode("ascii")


def region_code(bits: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """Codes a mask that is False outside a rectangle, from the rectangle alone.

    Args:
        bits: ``(h, w)``, the rectangle.
        top: Row of its first pixel.
        left: Column of its first pixel.
        size: ``(H, W)`` of the whole mask.
    """
    height, width = size
    lines = np.zeros((bits.shape[1], bits.shape[0] + 2), bool)  # columns, ending outside at both ends
    lines[:, 1:-1] = bits.T
    column, row = np.divmod(np.flatnonzero(lines[:, 1:] ^ lines[:, :-1]), lines.shape[1] - 1)
    edges = (column + left) * height + row + top
    starts, ends = edges[0::2], edges[1::2]
    joined = np.flatnonzero(starts[1:] == ends[:-1])  # a run that goes on at the top of the next column
    starts, ends = np.delete(starts, joined + 1), np.delete(ends, joined)
    counts = _counts(np.column_stack([starts, ends]).ravel(), height * width)
    return {"size": [height, width], "counts": compress(counts)}


def decompress(text: str) -> NDArray[np.int64]:
    """Reads run lengths that :func:`compress` or the COCO API wrote.

    Raises:
        ValueError: If the text is no such code; the message says why.
    """
    characters = np.frombuffer(text.encode("latin-1", "replace"), np.uint8).astype(np.int64) - 48
    if characters.size == 0:
        return characters
    if characters.min() < 0 or characters.max() > 63:
        raise ValueError(f"it holds the character {text[int(np.argmax((characters < 0) | (characters > 63)))]!r}")
    last = (characters & 0x20) == 0
    if not last[-1]:
        raise ValueError("it ends inside a number")
    first = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(characters)) - np.repeat(first, np.diff(np.append(first, len(characters))))
    if place.max() > 11:
        raise ValueError("it holds a number of more than 60 bits")
    values = np.add.reduceat((characters & 0x1F) << (5 * place), first)
    ends = np.flatnonzero(last)
    values -= np.where(characters[ends] & 0x10, np.int64(1) << (5 * (place[ends] + 1)), 0)
    # Odd and even counts, the first left aside, are running sums.
    for parity in (1, 2):
        values[parity::2] = np.cumsum(values[parity::2])
    return values


def read_code(code: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Turns a run-length code into its mask.

    Args:
        code: ``{"size": [H, W], "counts": ...}``, compressed (text) or not (a list of lengths).

    Returns:
        ``(H, W)``.

    Raises:
        ValueError: If the code is broken; the message says how.
    """
    counts, (height, width) = checked_counts(code)
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


def checked_counts(code: Mapping[str, Any]) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Reads the run lengths of a code and its size; see :func:`read_code`."""
    size, counts = code.get("size"), code.get("counts")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError(f"its size must be two positive whole numbers, got {size!r}")
    pixels = size[0] * size[1]
    if pixels > _MOST_PIXELS:
        raise ValueError(f"its size must have at most {_MOST_PIXELS} pixels, got {size[0]} x {size[1]}")
    if isinstance(counts, str):
        lengths = decompress(counts)
    elif isinstance(counts, list | tuple) and all(type(count) is int for count in counts):
        if max(counts, default=0) > pixels or min(counts, default=0) < -pixels:
            raise ValueError(f"a run has a length beyond the {pixels} pixels there are")
        lengths = np.array(counts, np.int64)
    else:
        raise ValueError(f"its counts must be a text or a list of whole numbers, got {counts!r:.40}")
    if (lengths < 0).any():
        raise ValueError(f"a run has the length {lengths.min()}")
    # Each by itself, too: a sum can pass 2^63 and come back to the right one.
    if (lengths > pixels).any() or lengths.sum() != pixels:
        raise ValueError(f"its runs cover {lengths.sum()} pixels of {size[0]} x {size[1]} = {pixels}")
    return lengths, (size[0], size[1])


def _counts(edges: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Lengths between 0, the places where the mask changes, and the end."""
    counts = np.diff(np.concatenate([[0], edges, [total]]))
    return counts[:-1] if counts[-1] == 0 else counts
