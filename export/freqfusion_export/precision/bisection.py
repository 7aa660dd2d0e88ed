# SPDX-License-Identifier: Apache-2.0
"""Finds what must be kept for a condition to hold, by leaving out halves, quarters and so on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

T = TypeVar("T")


def smallest_sufficient(items: Sequence[T], suffices: Callable[[Collection[T]], bool]) -> list[T]:
    """Leaves out as many items as it can: delta debugging (Zeller and Hildebrandt 2002), by complements.

    Leaves out one half, else the other, then quarters of what is left, down to single items; the last round tries every
    member and drops none. With k members out of n this takes about ``2 k log2(n / k)`` questions.

    Args:
        items: All of them together suffice.
        suffices: Asked about sets in the order of ``items``, never twice about the same. Assumed monotone: what holds
            for a set holds for every larger one. Then no smaller part of the result suffices. If it is not, the result
            still suffices and no *single* member can be left out. There may be a smaller set elsewhere in either case.

    Returns:
        The set found, in the order of ``items``; empty if nothing has to be kept.
    """
    known: dict[tuple[int, ...], bool] = {}

    def holds(kept: Sequence[int]) -> bool:
        key = tuple(kept)
        if key not in known:
            known[key] = suffices([items[index] for index in kept])
        return known[key]

    kept = list(range(len(items)))
    if holds([]):
        return []
    step = -(-len(kept) // 2)
    while step:
        before = list(kept)
        for start in range(0, len(before), step):
            left_out = set(before[start : start + step])
            rest = [index for index in kept if index not in left_out]
            if holds(rest):
                kept = rest
        # Single items go round until none goes: each was tried against the final set.
        step = step // 2 if step > 1 else int(kept != before)
    return [items[index] for index in kept]
