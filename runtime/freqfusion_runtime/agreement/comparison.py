# SPDX-License-Identifier: Apache-2.0
"""Measures of how far one array is from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.agreement.tolerances import HIGH_QUANTILE


@dataclass(frozen=True)
class Comparison:
    """One array beside its reference.

    Attributes:
        level: ``operator``, ``module``, ``layer``, ``attention``, ``network`` or ``preprocessing``.
        name: What was compared.
        max_abs: Largest error.
        mean_abs: Mean error.
        rel_l2: Norm of the error over the norm of the reference.
        cosine: Of the angle between both.
        max_over_std: ``max_abs`` over the standard deviation of the reference: what is held to the tolerance.
        tolerance: Bound of ``max_over_std``.
    """

    level: str
    name: str
    max_abs: float
    mean_abs: float
    rel_l2: float
    cosine: float
    max_over_std: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the error is within the tolerance; not a number never is."""
        return self.max_over_std <= self.tolerance


def compare(level: str, name: str, actual: NDArray[Any], expected: NDArray[Any], tolerance: float) -> Comparison:
    """Compares two arrays of equal shape in fp64; errors of infinities are infinite or not a number.

    Arrays without elements have measures that are not a number: nothing was compared, so nothing agrees.

    Raises:
        ValueError: If the shapes differ.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"{name}: shapes differ, {actual.shape} and {expected.shape}")
    a, e = actual.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    if a.size == 0:
        return Comparison(level, name, nan, nan, nan, nan, nan, tolerance)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - e)
        product, distance = float(a @ e), float(np.linalg.norm(a - e))
    norm_a, norm_e = float(np.linalg.norm(a)), float(np.linalg.norm(e))
    return Comparison(
        level,
        name,
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        rel_l2=_ratio(distance, norm_e),
        cosine=product / (norm_a * norm_e) if norm_a and norm_e else float(norm_a == norm_e),
        max_over_std=_ratio(float(error.max()), float(e.std())),
        tolerance=tolerance,
    )


def error_spread(actual: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """Root mean square of the error and its ``HIGH_QUANTILE``, both over the standard deviation of the reference.

    Unlike the largest error, and unlike labels, these do not hang on how a processor rounds a single number.
    """
    error = np.abs(actual.astype(np.float64) - expected) / float(expected.std(dtype=np.float64))
    return float(np.sqrt(np.mean(error**2))), float(np.quantile(error, HIGH_QUANTILE))


def label_agreement(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Share of pixels with equal labels.

    Raises:
        ValueError: If the maps differ in size, or have no pixels.
    """
    _check_maps(actual, expected)
    return float((actual == expected).mean())


def mean_iou(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Mean over the classes in either map of intersection over union.

    Raises:
        ValueError: As :func:`label_agreement`.
    """
    _check_maps(actual, expected)
    ious = [
        np.logical_and(actual == label, expected == label).sum()
        / np.logical_or(actual == label, expected == label).sum()
        for label in np.union1d(actual, expected)
    ]
    return float(np.mean(ious))


def mean_iou_of_set(actual: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """As :func:`mean_iou`, of several pictures: pixels are counted over all of them before anything is divided.

    So mIoU is defined where it is published: mmsegmentation's ``IoUMetric``, the tools of Cityscapes and ADE20K. A mean
    of the pictures' values would hang on a class that has three pixels in one of them.

    Raises:
        ValueError: As :func:`label_agreement`, of any map and its partner.
    """
    for first, second in zip(actual, expected, strict=True):
        _check_maps(first, second)
    return mean_iou(np.concatenate([a.ravel() for a in actual]), np.concatenate([e.ravel() for e in expected]))


def _check_maps(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    if actual.shape != expected.shape:
        raise ValueError(f"label maps differ in size, {actual.shape} and {expected.shape}")
    if actual.size == 0:
        raise ValueError(f"label maps of {actual.shape} have no pixels to compare")


def _ratio(error: float, scale: float) -> float:
    if error == 0.0:
        return 0.0
    return error / scale if scale else float("inf")
