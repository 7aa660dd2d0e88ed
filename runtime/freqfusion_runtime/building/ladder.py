# SPDX-License-Identifier: Apache-2.0
"""The levels at which an engine is compared, and what a comparison found."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("operator", "preprocessing", "layer", "module", "network", "task")


@dataclass(frozen=True)
class Rung:
    """One comparison on one picture.

    Attributes:
        reference: ``ONNX file`` or ``PyTorch``.
        level: One of :data:`LEVELS`.
        name: What was compared.
        measures: What was measured, by name.
        bounds: The least, or for errors the largest, that is allowed, by the same names.
        agrees: Whether every measure is within its bound.
        note: Why there is no measure.
    """

    reference: str
    level: str
    name: str
    measures: dict[str, float]
    bounds: dict[str, float]
    agrees: bool
    note: str = ""


@dataclass(frozen=True)
class PictureGate:
    """All comparisons on one picture, from operators to the task."""

    picture: str
    rungs: tuple[Rung, ...]

    @property
    def agrees(self) -> bool:
        """Whether every one holds; not without any."""
        return bool(self.rungs) and all(rung.agrees for rung in self.rungs)
