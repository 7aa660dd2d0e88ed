# SPDX-License-Identifier: Apache-2.0
"""What of a data set was scored, what was ignored, and what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_NAMED = 5  # on the screen; the JSON names all


@dataclass(frozen=True)
class Dropped:
    """Something that was left out of a score although it should count.

    Args:
        what: ``picture``, ``object`` or ``ring``.
        name: Which.
        reason: Why, with the value found.
    """

    what: str
    name: str
    reason: str


@dataclass(frozen=True)
class Account:
    """What a score is made of.

    Args:
        scored: Number of pictures, and of pixels, objects or segments, that count.
        ignored: Number of pixels, objects or segments that count for nothing by the benchmark's rules.
        dropped: What was left out, each with its reason.
        warnings: What may be wrong with the labels or with how they were read.
    """

    scored: Mapping[str, int]
    ignored: Mapping[str, int]
    dropped: tuple[Dropped, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def dropped_counts(self) -> dict[str, int]:
        """How many of each kind were dropped; pictures always among them."""
        kinds = dict.fromkeys(["picture", *(entry.what for entry in self.dropped)])
        return {
            f"{kind}{'es' if kind[-1] == 'x' else 's'}": sum(entry.what == kind for entry in self.dropped)
            for kind in kinds
        }

    def lines(self) -> list[str]:
        """Words it, the first few of what was dropped by name."""
        counts = (("scored", self.scored), ("ignored", self.ignored), ("dropped", self.dropped_counts))
        lines = ["; ".join(f"{verb}: {_listed(numbers)}" for verb, numbers in counts)]
        lines += [f"  dropped {entry.what} {entry.name}: {entry.reason}" for entry in self.dropped[:_NAMED]]
        if len(self.dropped) > _NAMED:
            lines.append(f"  and {len(self.dropped) - _NAMED} more, all of which --json names")
        return [*lines, *(f"WARNING: {warning}" for warning in self.warnings)]

    def facts(self) -> dict[str, Any]:
        """The same for JSON, with everything that was dropped."""
        return {
            "counts": {"scored": dict(self.scored), "ignored": dict(self.ignored), "dropped": self.dropped_counts},
            "dropped": [asdict(entry) for entry in self.dropped],
            "warnings": list(self.warnings),
        }


def absent_classes(names: Sequence[str], counts: Sequence[int], noun: str) -> list[str]:
    """Words which classes the truth does not have at all.

    Args:
        names: Of all classes.
        counts: How much of each the truth has.
        noun: What is counted.
    """
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    if not absent:
        return []
    shown = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")
    return [f"{len(absent)} of {len(names)} classes have no {noun} in the truth: {shown}"]


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in numbers.items()) or "nothing"
