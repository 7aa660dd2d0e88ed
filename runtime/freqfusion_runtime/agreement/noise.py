# SPDX-License-Identifier: Apache-2.0
"""What PyTorch differs from itself by on the same picture: the scale on which to read every other difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NoiseEntry:
    """One source of noise on one picture.

    Attributes:
        source: ``TF32``, or ``NMF bases, seed N``.
        picture: Its name.
        logit_error: Largest error of the class scores over their standard deviation; None of models that find objects,
            and in files where it is infinite or not a number.
        logit_rms: Root mean square of the same.
        measures: At the level of the task, by name: label agreement and mIoU, or what objects are compared by.
    """

    source: str
    picture: str
    logit_error: float | None
    logit_rms: float | None
    measures: dict[str, float]


def noise_lines(entries: Sequence[NoiseEntry]) -> list[str]:
    """Words the floor as a table."""
    if not entries:
        return []
    lines = [f"  {'PyTorch against itself':<24} {'picture':<20} {'logits max/std':>14} {'rms/std':>9}  task"]
    for entry in entries:
        numbers = ["-" if value is None else f"{value:.1e}" for value in (entry.logit_error, entry.logit_rms)]
        task = ", ".join(f"{name} {value:.6g}" for name, value in entry.measures.items())
        lines.append(f"  {entry.source:<24} {entry.picture:<20} {numbers[0]:>14} {numbers[1]:>9}  {task}")
    return lines
