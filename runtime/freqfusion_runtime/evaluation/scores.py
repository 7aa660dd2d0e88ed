# SPDX-License-Identifier: Apache-2.0
"""Scores of a model on a data set, with intervals from resampling its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.evaluation.counts import boundary_counts, confusion_matrix

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % bootstrap interval; not a number where nothing counts towards it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Scores:
    """What one model reached; all in [0, 1]. Classes that are neither true nor found anywhere are NaN and left out."""

    miou: Interval
    pixel_accuracy: Interval
    boundary_f: Interval
    class_iou: tuple[float, ...]
    class_boundary_f: tuple[float, ...]
    confusion: NDArray[np.int64]


class Tally:
    """Adds up counts picture by picture. Memory is 7 numbers for each picture and class.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self._pictures: list[NDArray[np.int64]] = []

    def add(self, labels: NDArray[Any], truth: NDArray[Any], name: str) -> None:
        """Counts one picture; see ``confusion_matrix``."""
        confusion = confusion_matrix(labels, truth, self.num_classes, name)
        self.confusion += confusion
        regions = np.stack([confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)])
        self._pictures.append(np.concatenate([regions, boundary_counts(labels, truth, self.num_classes)]))

    @property
    def pictures(self) -> int:
        """How many there are so far."""
        return len(self._pictures)

    def counts(self) -> NDArray[np.int64]:
        """``(pictures, 7, K)``: right, true, found pixels; matched found, found, matched true, true boundary ones."""
        return np.stack(self._pictures)

    def scores(self) -> Scores:
        """Computes all scores."""
        counts = self.counts()
        total = counts.sum(axis=0)
        return Scores(
            miou=_interval(counts, lambda c: _mean(class_iou(c))),
            pixel_accuracy=_interval(counts, pixel_accuracy),
            boundary_f=_interval(counts, lambda c: _mean(class_boundary_f(c))),
            class_iou=tuple(class_iou(total).tolist()),
            class_boundary_f=tuple(class_boundary_f(total).tolist()),
            confusion=self.confusion,
        )


def miou_difference(one: Tally, other: Tally) -> Interval:
    """How much higher the mIoU of ``one`` is; pictures are resampled for both alike, so that hard ones cancel."""
    both = np.concatenate([one.counts(), other.counts()], axis=1)
    return _interval(both, lambda c: _mean(class_iou(c[..., :7, :])) - _mean(class_iou(c[..., 7:, :])))


def class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union, ``(..., 7, K)`` to ``(..., K)``."""
    right, true, found = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    return _divide(right, true + found - right)


def pixel_accuracy(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of pixels that are right, ``(..., 7, K)`` to ``(...)``."""
    return _divide(counts[..., 0, :].sum(axis=-1), counts[..., 1, :].sum(axis=-1))


def class_boundary_f(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Harmonic mean of the boundaries' precision and recall, ``(..., 7, K)`` to ``(..., K)``."""
    matched_found, found, matched_true, true = (counts[..., i, :] for i in range(3, 7))
    precision = np.where(found == 0, 0.0, _divide(matched_found, found))
    recall = np.where(true == 0, 0.0, _divide(matched_true, true))
    absent = (found == 0) & (true == 0)
    return np.where(absent, np.nan, np.nan_to_num(_divide(2 * precision * recall, precision + recall)))


def _interval(counts: NDArray[np.int64], score: Callable[[NDArray[Any]], NDArray[np.float64]]) -> Interval:
    """Percentile bootstrap over pictures; the seed is fixed, so that a table can be made again."""
    pictures = len(counts)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=RESAMPLES).astype(np.float64)
    totals = (weights @ counts.reshape(pictures, -1)).reshape(-1, *counts.shape[1:])  # exact: counts below 2**53
    drawn = score(totals)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if drawn.size else (np.nan, np.nan)
    return Interval(float(score(counts.sum(axis=0))), float(low), float(high))


def _divide(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: NDArray[np.float64] = np.asarray(a, np.float64) / b
    return quotient


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    present = ~np.isnan(values)
    return _divide(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))
