# SPDX-License-Identifier: Apache-2.0
"""The figures of a batch, gathered while it runs."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from statistics import median
from typing import Any

from freqfusion_runtime.batch.labeller import Outcome

_SAMPLES = 1000  # of the latest pictures; a median of more says the same and a million would be kept in memory


class Summary:
    """Counts pictures and pixels; those of earlier runs count towards the classes only."""

    def __init__(self, found: int, duplicates: int, done_before: Sequence[dict[str, Any]]) -> None:
        self.found, self.duplicates, self.skipped = found, duplicates, len(done_before)
        self.done = self.failed = self.pixels = self.written_bytes = 0
        self._stages: dict[str, deque[float]] = {}
        self._classes: Counter[int] = Counter()
        self._pictures: Counter[int] = Counter()
        for record in done_before:
            self._count_classes(record.get("classes", {}))

    def add(self, outcome: Outcome) -> None:
        """Counts one outcome."""
        if outcome.error:
            self.failed += 1
            return
        self.done += 1
        self.pixels += outcome.height * outcome.width
        self.written_bytes += sum(outcome.outputs.values())
        self._count_classes(outcome.classes)
        for stage, ms in outcome.stages_ms.items():
            self._stages.setdefault(stage, deque(maxlen=_SAMPLES)).append(ms)

    def stage_medians_ms(self) -> dict[str, float]:
        """Median time of each stage over the latest pictures."""
        return {stage: round(median(times), 3) for stage, times in self._stages.items()}

    def classes(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Lists the classes that occur, the largest first, with their share of all pixels and in how many pictures."""
        total = sum(self._classes.values())
        return [
            {
                "label": label,
                "name": names[label],
                "pixels": pixels,
                "share": round(pixels / total, 6),
                "pictures": self._pictures[label],
            }
            for label, pixels in sorted(self._classes.items(), key=lambda entry: (-entry[1], entry[0]))
        ]

    def facts(self, seconds: float) -> dict[str, Any]:
        """Gives the counts."""
        return {
            "found": self.found,
            "duplicates": self.duplicates,
            "skipped": self.skipped,
            "done": self.done,
            "failed": self.failed,
            "seconds": round(seconds, 3),
            "pictures_per_s": round((self.done + self.failed) / seconds, 3),
            "megapixels": round(self.pixels / 1e6, 3),
            "written_mb": round(self.written_bytes / 1e6, 3),
            "stage_medians_ms": self.stage_medians_ms(),
        }

    def _count_classes(self, classes: dict[str, int]) -> None:
        for label, pixels in classes.items():
            self._classes[int(label)] += pixels
            self._pictures[int(label)] += 1
