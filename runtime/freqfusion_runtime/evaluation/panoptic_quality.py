# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality: matched segments' mean IoU times the share of segments that are matched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.results.coco_format import Identity

VOID = 0


@dataclass(frozen=True)
class SegmentOf:
    """What a panoptic map's id stands for."""

    category: Identity
    is_crowd: bool = False


@dataclass
class Tally:
    """Matches of one category so far."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    iou_sum: float = 0.0

    @property
    def total(self) -> float:
        """What the IoU sum is divided by; 0 where the category never appeared."""
        return self.true_positives + 0.5 * self.false_positives + 0.5 * self.false_negatives


@dataclass(frozen=True)
class Quality:
    """PQ and its factors, in [0, 1], as means over ``categories`` categories that appeared; None where none did."""

    pq: float | None
    sq: float | None
    rq: float | None
    categories: int


@dataclass
class PanopticScore:
    """Adds up pictures and gives the quality.

    Segments match where categories are equal and the IoU is above one half, which makes matches unique. Void pixels of
    the truth count for no prediction; crowds are neither matched nor missed; a prediction that lies by more than half
    in void and in crowds of its category is not wrong.

    Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019, and ``evaluation.py`` of the panoptic API, which takes
    the truth's areas from its JSON; here they are counted in the map.
    """

    tallies: dict[Identity, Tally] = field(default_factory=dict)

    def add(
        self,
        truth: NDArray[np.integer],
        truth_segments: Mapping[int, SegmentOf],
        found: NDArray[np.integer],
        found_segments: Mapping[int, SegmentOf],
    ) -> None:
        """Adds one picture.

        Args:
            truth: ``(H, W)``, ids from 0 to 2**32 - 1; 0 is void.
            truth_segments: What the ids are, but for 0. Pixels of an id that is not there match nothing and, other
                than void, excuse nothing; an id without pixels is missed. Both are so in the panoptic API.
            found: As ``truth``, of the same size.
            found_segments: As ``truth_segments``.
        """
        true_ids, found_ids, common = _intersections(truth, found)
        true_areas, found_areas = _sums(true_ids, common), _sums(found_ids, common)
        in_void = {f: n for t, f, n in zip(true_ids, found_ids, common, strict=True) if t == VOID}
        matched_true, matched_found = set(), set()
        in_crowd: dict[int, int] = {}
        for t, f, n in zip(true_ids, found_ids, common, strict=True):
            if t == VOID or f == VOID:
                continue
            true, guess = truth_segments.get(t), found_segments[f]
            if true is None or true.category != guess.category:
                continue
            if true.is_crowd:
                in_crowd[f] = in_crowd.get(f, 0) + n
                continue
            iou = n / (true_areas[t] + found_areas[f] - n - in_void.get(f, 0))
            if iou > 0.5:
                tally = self._of(true.category)
                tally.true_positives += 1
                tally.iou_sum += iou
                matched_true.add(t)
                matched_found.add(f)
        for t, segment in truth_segments.items():
            if t not in matched_true and not segment.is_crowd:
                self._of(segment.category).false_negatives += 1
        for f, area in found_areas.items():
            if f != VOID and f not in matched_found and (in_void.get(f, 0) + in_crowd.get(f, 0)) / area <= 0.5:
                self._of(found_segments[f].category).false_positives += 1

    def quality(self, categories: Iterable[Identity] | None = None) -> Quality:
        """Gives the mean quality of some categories, all by default."""
        chosen = self.tallies.keys() if categories is None else set(categories) & self.tallies.keys()
        tallies = [
            tally for tally in (self.tallies[category] for category in sorted(chosen, key=_order)) if tally.total
        ]
        if not tallies:
            return Quality(None, None, None, 0)
        pq = [tally.iou_sum / tally.total for tally in tallies]
        sq = [tally.iou_sum / tally.true_positives if tally.true_positives else 0.0 for tally in tallies]
        rq = [tally.true_positives / tally.total for tally in tallies]
        count = len(tallies)
        return Quality(sum(pq) / count, sum(sq) / count, sum(rq) / count, count)

    def _of(self, category: Identity) -> Tally:
        return self.tallies.setdefault(category, Tally())


def _intersections(a: NDArray[Any], b: NDArray[Any]) -> tuple[list[int], list[int], list[int]]:
    """Lists pairs of ids that share pixels, and how many."""
    pairs = a.astype(np.uint64) << np.uint64(32) | b.astype(np.uint64)
    # Runs first: a panoptic map has long ones, and sorting them takes a fraction of sorting pixels.
    flat = pairs.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size))
    values, places = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(places, weights=lengths).astype(np.int64)
    first, second = values >> np.uint64(32), values & np.uint64(0xFFFFFFFF)
    return first.tolist(), second.tolist(), counts.tolist()


def _order(category: Identity) -> tuple[bool, Identity]:
    return isinstance(category, str), category


def _sums(ids: list[int], counts: list[int]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for identity, count in zip(ids, counts, strict=True):
        sums[identity] = sums.get(identity, 0) + count
    return sums
