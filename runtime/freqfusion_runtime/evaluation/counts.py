# SPDX-License-Identifier: Apache-2.0
"""Counts pixels of one label map against the truth: what every score is made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.evaluation.errors import DatasetError, EvaluationError

IGNORED = 255  # in the truth: this pixel counts for nothing
BOUNDARY_TOLERANCE = 0.0075  # of the picture's diagonal


def check_truth(truth: NDArray[Any], num_classes: int, name: str) -> None:
    """Raises ``DatasetError`` unless ``(H, W)`` labels are in ``[0, num_classes)`` or ``IGNORED``."""
    found = set(np.unique(truth).tolist()) - {IGNORED}
    if strange := sorted(found - set(range(num_classes))):
        raise DatasetError(
            f"{name}: the truth holds labels {strange[:5]}, outside the {num_classes} classes 0 to {num_classes - 1} "
            f"and {IGNORED} for ignored pixels. Check --dataset and --labels, and that the label files are of this "
            "data set."
        )


def confusion_matrix(labels: NDArray[Any], truth: NDArray[Any], num_classes: int, name: str) -> NDArray[np.int64]:
    """Counts pixels by true class and found class.

    Args:
        labels: ``(H, W)``, found, in ``[0, num_classes)``.
        truth: ``(H, W)``, in ``[0, num_classes)`` or ``IGNORED``.
        num_classes: K.
        name: What errors call the picture.

    Returns:
        ``(K, K)``; row = true class, column = found class.

    Raises:
        DatasetError: If the truth holds another label.
        EvaluationError: If the sizes differ, or the found labels hold another one.
    """
    if labels.shape != truth.shape:
        raise EvaluationError(
            f"{name}: the label map is {_size(labels)}, the truth {_size(truth)}. They must be of one size."
        )
    check_truth(truth, num_classes, name)
    counted = truth != IGNORED
    rows, columns = truth[counted].astype(np.int64), labels[counted].astype(np.int64)
    if columns.size and (columns.min() < 0 or columns.max() >= num_classes):
        raise EvaluationError(
            f"{name}: the model found label {columns.max()}, outside the {num_classes} classes. Use a model of this "
            "data set."
        )
    return np.bincount(rows * num_classes + columns, minlength=num_classes**2).reshape(num_classes, num_classes)


def boundary_counts(labels: NDArray[Any], truth: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    """Counts boundary pixels of each class, and those that have a partner in the other map.

    A boundary pixel of class c has label c and a neighbour (4-connected, inside the picture, not ignored) of another
    class. It is matched if the other map has a boundary pixel of c within 0.75 % of the diagonal, at least one pixel.

    Args:
        labels: ``(H, W)``, found.
        truth: ``(H, W)``, with ``IGNORED``.
        num_classes: K.

    Returns:
        ``(4, K)``: matched found, found, matched true, true.

    Source: boundary F1 of Csurka et al., BMVC 2013, whose tolerance this is; they average pictures, we add up counts,
    so that pictures without a class need no convention.
    """
    is_counted = truth != IGNORED
    found = _boundaries(np.where(is_counted, labels.astype(np.int64), -1))
    true = _boundaries(np.where(is_counted, truth.astype(np.int64), -1))
    radius = max(1, round(BOUNDARY_TOLERANCE * math.hypot(*truth.shape)))
    result = []
    for one, other in ((found, true), (true, found)):
        matched = one[_has_partner(one, other, radius)]
        result += [np.bincount(matched, minlength=num_classes), np.bincount(one[one >= 0], minlength=num_classes)]
    return np.stack(result)


def _boundaries(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Keeps the label of boundary pixels; -1 elsewhere and where ``labels`` is -1."""
    at_edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        a, b = _shifted(labels, axis)
        differs = (a != b) & (a >= 0) & (b >= 0)
        first, second = _shifted(at_edge, axis)
        first |= differs
        second |= differs
    return np.where(at_edge, labels, -1).astype(np.int64)


def _shifted(array: NDArray[Any], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    return (array[:-1], array[1:]) if axis == 0 else (array[:, :-1], array[:, 1:])


def _has_partner(one: NDArray[np.int64], other: NDArray[np.int64], radius: int) -> NDArray[np.bool_]:
    height, width = one.shape
    padded = np.pad(other, radius, constant_values=-1)
    matched = np.zeros(one.shape, bool)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx <= radius * radius:
                top, left = radius + dy, radius + dx
                matched |= padded[top : top + height, left : left + width] == one
    return matched & (one >= 0)


def _size(labels: NDArray[Any]) -> str:
    return " x ".join(map(str, labels.shape[::-1]))
