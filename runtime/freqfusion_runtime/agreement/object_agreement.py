# SPDX-License-Identifier: Apache-2.0
"""How far two answers about one picture agree, object by object and segment by segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.agreement.tolerances import BOX_IOU, OBJECT_BOUNDS
from freqfusion_runtime.evaluation.panoptic_quality import PanopticScore, SegmentOf
from freqfusion_runtime.results.detections import Detections, InstanceSegmentation, PanopticSegmentation


@dataclass(frozen=True)
class ObjectAgreement:
    """Which objects of two answers are the same.

    Args:
        pairs: Places in the first and in the second answer.
        counts: Objects of both answers.
        min_box_iou: Of all pairs; None without pairs, and so below.
        max_score_difference: Of all pairs.
        mean_score_difference: Of all pairs.
        mean_mask_iou: Of all pairs; None also for answers without masks.
        min_mask_iou: As above.
    """

    pairs: tuple[tuple[int, int], ...]
    counts: tuple[int, int]
    min_box_iou: float | None
    max_score_difference: float | None
    mean_score_difference: float | None
    mean_mask_iou: float | None
    min_mask_iou: float | None

    @property
    def share(self) -> float:
        """Share of both answers' objects that have a partner; 1 where neither has any."""
        total = sum(self.counts)
        return 2 * len(self.pairs) / total if total else 1.0


ERRORS = ("max_score_difference", "mean_score_difference")


@dataclass(frozen=True)
class AnswerAgreement:
    """How far two answers of a model that finds objects are the same.

    Args:
        objects: Which objects are.
        panoptic: Panoptic quality of the first map with the second as the truth; None of other models.
        precision: Whose bounds it is held to.
    """

    objects: ObjectAgreement
    panoptic: float | None
    precision: str = "fp32"

    @property
    def is_empty(self) -> bool:
        """Whether neither answer has an object, and no map tells them apart: then nothing was compared."""
        return self.panoptic is None and not any(self.objects.counts)

    @property
    def bounds(self) -> dict[str, float]:
        """The bound of every measure."""
        return {name: OBJECT_BOUNDS[self.precision][name] for name in self.measures}

    @property
    def measures(self) -> dict[str, float]:
        """What is held to a bound, by its name; what the task does not have is left out."""
        found = {
            "object_agreement": self.objects.share,
            "max_score_difference": self.objects.max_score_difference,
            "mean_score_difference": self.objects.mean_score_difference,
            "mean_mask_iou": self.objects.mean_mask_iou,
            "panoptic_quality": self.panoptic,
        }
        bounds = OBJECT_BOUNDS[self.precision]
        return {name: value for name, value in found.items() if value is not None and name in bounds}

    @property
    def agrees(self) -> bool:
        """Whether every measure is within its bound; not a number never is."""
        return all(
            value <= self.bounds[name] if name in ERRORS else value >= self.bounds[name]
            for name, value in self.measures.items()
        )


def compare_answers(
    actual: Detections | PanopticSegmentation,
    expected: Detections | PanopticSegmentation,
    precision: str = "fp32",
) -> AnswerAgreement:
    """Compares two answers of one task about one picture, as a file of ``precision`` may differ from fp32."""
    if isinstance(actual, PanopticSegmentation) and isinstance(expected, PanopticSegmentation):
        return AnswerAgreement(
            match_objects(actual.instances, expected.instances, precision),
            panoptic_agreement(actual, expected),
            precision,
        )
    assert isinstance(actual, Detections)
    assert isinstance(expected, Detections)
    return AnswerAgreement(match_objects(actual, expected, precision), None, precision)


def match_objects(actual: Detections, expected: Detections, precision: str = "fp32") -> ObjectAgreement:
    """Pairs objects of equal label whose boxes have an IoU of at least :data:`BOX_IOU`, the nearest pairs first."""
    ious = box_ious(actual.boxes, expected.boxes)
    ious[actual.labels[:, None] != expected.labels[None]] = 0.0
    pairs: list[tuple[int, int]] = []
    free = np.ones(len(actual), bool), np.ones(len(expected), bool)
    order = np.argsort(-ious, axis=None, kind="stable")
    for place in order[: np.count_nonzero(ious >= BOX_IOU[precision])].tolist():
        first, second = divmod(place, len(expected))
        if free[0][first] and free[1][second]:
            free[0][first] = free[1][second] = False
            pairs.append((first, second))
    pairs.sort()
    box = [float(ious[pair]) for pair in pairs]
    score = [abs(float(actual.scores[first] - expected.scores[second])) for first, second in pairs]
    mask: list[float] = []
    if isinstance(actual, InstanceSegmentation) and isinstance(expected, InstanceSegmentation):
        mask = [actual.masks[first].iou(expected.masks[second]) for first, second in pairs]
    return ObjectAgreement(
        tuple(pairs),
        (len(actual), len(expected)),
        _of_all(np.min, box),
        _of_all(np.max, score),
        _of_all(np.mean, score),
        _of_all(np.mean, mask),
        _of_all(np.min, mask),
    )


def _of_all(measure: Callable[[list[float]], Any], values: list[float]) -> float | None:
    """Not Python's min and max, which may pass over what is not a number."""
    return float(measure(values)) if values else None


def box_ious(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of each box of ``a``, ``(N, 4)``, with each of ``b``, ``(M, 4)``: ``(N, M)``.

    Equal boxes without area have an IoU of 1.
    """
    first, second = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - common
    same = (first == second).all(axis=-1)
    ious: NDArray[np.float64] = np.where(same, 1.0, common / np.where(union > 0, union, 1.0))
    return ious


def panoptic_agreement(actual: PanopticSegmentation, expected: PanopticSegmentation) -> float:
    """Panoptic quality of one answer with the other as the truth.

    Void counts as a class with one segment where there is any: as the truth's void it would excuse what differs there.
    """
    score = PanopticScore()
    maps = [found.ids + 1 for found in (expected, actual)]  # 0 would be void
    segments = [{s.id + 1: SegmentOf(s.label) for s in found.segments} for found in (expected, actual)]
    for found, named in zip((expected, actual), segments, strict=True):
        if (found.ids == found.void).any():  # a segment without pixels would be a missed one
            named[found.void + 1] = SegmentOf(found.void)
    score.add(maps[0], segments[0], maps[1], segments[1])
    quality = score.quality().pq
    assert quality is not None  # every pixel is of some segment
    return quality
