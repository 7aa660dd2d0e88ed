# SPDX-License-Identifier: Apache-2.0
"""How long each stage of a request took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Stages:
    """Milliseconds of each stage, in the order they were passed."""

    ms: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, ms: float) -> None:
        """Adds time to a stage."""
        self.ms[stage] = self.ms.get(stage, 0.0) + ms

    def timed(self, stage: str, work: Callable[[], T]) -> T:
        """Does work and adds its time."""
        start = time.perf_counter()
        result = work()
        self.add(stage, (time.perf_counter() - start) * 1e3)
        return result

    def header(self) -> str:
        """Writes the value of a ``Server-Timing`` header."""
        return ", ".join(f"{stage};dur={ms:.3f}" for stage, ms in self.ms.items())
