# SPDX-License-Identifier: Apache-2.0
"""What the numbers in label files mean, and whether a model's answers speak for another meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.evaluation.counts import IGNORED

# labelIds of Cityscapes' 19 evaluated classes, in the order of their trainIds; all others are ignored.
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# A good model is right on four fifths of the pixels and, of labels that are off by one, on next to none.
_TELLING_SHARE = 0.2
# ADE20K ignores 7 % of its pixels and Cityscapes 12 %.
_MUCH_IGNORED = 0.5
_NAMED = 5


def _label_ids() -> NDArray[np.uint8]:
    table = np.full(256, IGNORED, np.uint8)
    table[list(CITYSCAPES_LABEL_IDS)] = np.arange(len(CITYSCAPES_LABEL_IDS))
    return table


def _from_1() -> NDArray[np.uint8]:
    table = (np.arange(256) - 1).astype(np.uint8)  # 0 becomes 255
    table[IGNORED] = IGNORED  # as mmsegmentation's reduce_zero_label leaves it
    return table


# What becomes of each value in a label file, by the name that --labels has for it. 255 is ignored in all of them.
READINGS: dict[str, NDArray[np.uint8]] = {
    "from-1": _from_1(),
    "from-0": np.arange(256, dtype=np.uint8),
    "label-ids": _label_ids(),
    "train-ids": np.arange(256, dtype=np.uint8),
}


class LabelValues:
    """Counts the values in label files, and what a model finds where they stand.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self._counts = np.zeros((256, num_classes), np.int64)

    def add(self, values: NDArray[np.uint8], labels: NDArray[Any]) -> None:
        """Counts one picture: ``(H, W)`` as in the file, and ``(H, W)`` as found."""
        num_classes = self._counts.shape[1]
        pairs = values.astype(np.int64) * num_classes + labels
        self._counts += np.bincount(pairs.ravel(), minlength=self._counts.size).reshape(self._counts.shape)

    def by_value(self) -> dict[int, int]:
        """Pixels of each value that occurs."""
        totals = self._counts.sum(axis=1)
        return {int(value): int(totals[value]) for value in np.flatnonzero(totals)}

    def ignored(self, reading: str) -> dict[int, int]:
        """Pixels of each value that counts for nothing."""
        return {value: count for value, count in self.by_value().items() if READINGS[reading][value] == IGNORED}

    def share_right(self, reading: str) -> float:
        """The model's pixel accuracy where the values mean this; 0 where no pixel would count."""
        table, num_classes = READINGS[reading], self._counts.shape[1]
        is_counted = table != IGNORED
        values = np.flatnonzero(is_counted & (table < num_classes))
        total = int(self._counts[is_counted].sum())
        return float(self._counts[values, table[values]].sum() / total) if total else 0.0

    def warnings(self, reading: str, others: Sequence[str]) -> list[str]:
        """Words what speaks against a reading.

        Args:
            reading: How the labels were read.
            others: What else is possible.
        """
        found, own = [], self.share_right(reading)
        for other in others:
            share = self.share_right(other)
            if share - own > _TELLING_SHARE:
                found.append(
                    f"labels look shifted: the first model is right on {share:.1%} of the pixels if they are read with "
                    f"--labels {other}, and on {own:.1%} as they are (--labels {reading})"
                )
        by_value, ignored = self.by_value(), self.ignored(reading)
        share = sum(ignored.values()) / max(sum(by_value.values()), 1)
        if share > _MUCH_IGNORED:
            found.append(
                f"{share:.1%} of the pixels are ignored, {words(ignored)}; --labels says what the values mean, "
                f"which here is {reading}"
            )
        return found


def words(by_value: dict[int, int]) -> str:
    """Words which values occur, the most frequent first."""
    ordered = sorted(by_value, key=lambda value: -by_value[value])
    shown = ", ".join(map(str, ordered[:_NAMED]))
    rest = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return f"those of value {shown}{rest}" if ordered else "none"
