# SPDX-License-Identifier: Apache-2.0
"""The bar that grows with a build, on a terminal of any width; nothing at all where there is none."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from freqfusion_runtime.files import printable

_TICK_S = 1.0  # a single phase may take most of a build, and the clock should not stand still meanwhile
_NARROW = 60  # columns below which the phase's name is left out


@contextmanager
def build_bar(subject: str) -> Iterator[Callable[[float, str], None]]:
    """Shows a bar on standard error until the block ends.

    Args:
        subject: What is built; clipped where it is long.

    Yields:
        What a build calls with the fraction done and the phase's name, from any thread.
    """
    bar = tqdm(
        total=1000,
        file=sys.stderr,
        disable=None,
        leave=False,
        dynamic_ncols=True,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}{postfix}",
    )
    if bar.disable:
        yield lambda fraction, phase: None
        return
    bar.set_description_str(_clipped(subject, _columns() // 3), refresh=True)
    ended = threading.Event()

    def report(fraction: float, phase: str) -> None:
        columns = _columns()
        bar.set_postfix_str(_clipped(phase, columns // 3) if columns >= _NARROW else "", refresh=False)
        bar.update(int(1000 * fraction) - bar.n)

    def tick() -> None:
        while not ended.wait(_TICK_S):
            bar.refresh()

    clock = threading.Thread(target=tick, name="clock of the bar", daemon=True)
    clock.start()
    try:
        yield report
    finally:
        ended.set()
        clock.join()
        bar.close()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _clipped(text: str, width: int) -> str:
    text = printable(text)
    return text if len(text) <= width else text[: max(width - 1, 1)] + "…"
