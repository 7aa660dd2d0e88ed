# SPDX-License-Identifier: Apache-2.0
"""How the work of a parser grows with its input, counted and not timed."""

from __future__ import annotations

import functools
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

MOST = 2.5
"""What twice the input may cost, in steps and in memory; 2 is linear."""


def steps(work: Callable[[], Any]) -> int:
    """Lines of Python that run; what a line calls in C counts as one, so memory is looked at, too."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def peak_bytes(work: Callable[[], Any]) -> int:
    """Most memory that Python's objects take at one time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def assert_linear(work: Callable[[Any], Any], make: Callable[[int], Any], size: int) -> None:
    """Holds the work on an input of twice the size to :data:`MOST` times that on the other one.

    Args:
        work: Takes an input.
        make: Makes an input of a size.
        size: Large enough that what every input costs does not count.
    """
    work(make(size))  # imports
    for measure in (steps, peak_bytes):
        small, large = make(size), make(2 * size)  # anew: nothing of them lies in a cache
        one, two = (measure(functools.partial(work, each)) for each in (small, large))
        assert two <= MOST * one, f"{measure.__name__}: {one} and {two}, {two / one:.2f} times as much"
