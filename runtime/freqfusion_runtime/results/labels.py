# SPDX-License-Identifier: Apache-2.0
"""From a network's class scores to a label map of the picture's size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.errors import NetworkOutputError
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.sizes import keep_ratio_size, network_size

# Output pixels per side of a tile. A tile keeps only the classes that can win in it; larger tiles keep more of them,
# smaller ones cost more calls.
_TILE = 32
_REEXPORT = "Write the model again with `freqfusion export`."


def labels_from_scores(
    scores: NDArray[np.floating],
    network_size: tuple[int, int],
    picture_size: tuple[int, int],
    kept_size: tuple[int, int] | None = None,
) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Resizes all class maps to the network's input size, then to the picture's, and takes the largest.

    Both resizes are bilinear with half-pixel centres and no antialiasing, as in the official pipeline; one direct
    resize gives other labels. Each axis' two steps are multiplied into one small matrix, so that no class map is
    stored at either size. An interpolated value never leaves the range of its sources, so in each tile of the output
    only classes whose highest source reaches the best lowest source are interpolated at all.

    Args:
        scores: ``(C, h, w)``, any float dtype.
        network_size: ``(height, width)`` of the network's input.
        picture_size: ``(height, width)`` of the result.
        kept_size: ``(height, width)`` of the network's input without its padding, which is cut off between the two
            resizes; None for an input without padding.

    Returns:
        ``(height, width)``, uint8 for up to 256 classes, else int32; the lowest class wins a tie.

    Raises:
        NetworkOutputError: If a score is infinite or not a number.
    """
    classes, height, width = scores.shape
    if not np.isfinite(scores).all():
        raise NetworkOutputError(
            f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} class scores are infinite or not a number. "
            "The network overflowed: check its weights, or export it with --precision fp32."
        )
    kept_height, kept_width = kept_size or network_size
    vertical = resize_matrix(height, network_size[0], picture_size[0], kept_height)
    horizontal = resize_matrix(width, network_size[1], picture_size[1], kept_width)
    channels_last = np.ascontiguousarray(scores.transpose(1, 2, 0), dtype=np.float32)  # (h, w, C)
    labels = np.empty(picture_size, np.uint8 if classes <= 256 else np.int32)
    columns = list(_bands(horizontal))
    for y, rows, down in _bands(vertical):
        strip = channels_last[rows]
        low, high = strip.min(axis=0), strip.max(axis=0)  # (w, C)
        for x, within, across in columns:
            floor, ceiling = low[within].min(axis=0).max(), high[within].max(axis=0)
            # The bound is exact in real numbers; the slack covers the rounding of the weights and sums below.
            slack = 1e-5 * max(abs(floor), abs(ceiling.max()))
            candidates = np.flatnonzero(ceiling >= floor - slack)
            if len(candidates) == 1:
                labels[y, x] = candidates[0]
                continue
            patch = strip[:, within][:, :, candidates]  # (p, q, K)
            p, q, k = patch.shape
            stretched = (down @ patch.reshape(p, q * k)).reshape(-1, q, k)  # (rows, q, K)
            winners = np.matmul(across, stretched).argmax(axis=-1)  # (rows, columns)
            labels[y, x] = candidates[winners]
    return labels


def labels_of_picture(
    scores: NDArray[np.floating], picture_size: tuple[int, int], plan: Preprocessing
) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Makes the label map of a picture that was prepared by ``plan``; see :func:`labels_from_scores`."""
    kept = keep_ratio_size(*picture_size, plan) if plan.size_fit == "pad" else None
    return labels_from_scores(scores, network_size(*picture_size, plan), picture_size, kept)


def checked_labels(labels: NDArray[Any], num_classes: int) -> NDArray[Any]:
    """Makes sure that labels which a network made itself are classes of its manifest, and narrows their type.

    Args:
        labels: ``(H, W)``, any integer dtype.
        num_classes: K.

    Returns:
        ``(H, W)``, uint8 for up to 256 classes, else int32.

    Raises:
        NetworkOutputError: If a label is not from 0 to K - 1, or the labels are no whole numbers.
    """
    if labels.dtype.kind not in "iu":
        raise NetworkOutputError(f"the labels are {labels.dtype}, expected whole numbers. {_REEXPORT}")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise NetworkOutputError(
            f"the labels go from {labels.min()} to {labels.max()}, and the manifest has {num_classes} classes. "
            f"{_REEXPORT}"
        )
    return labels.astype(np.uint8 if num_classes <= 256 else np.int32, copy=False)


def resize_matrix(source: int, between: int, target: int, kept: int | None = None) -> NDArray[np.float32]:
    """Writes two bilinear resizes of one axis, ``source`` to ``between`` to ``target``, as a matrix.

    With ``kept``, only the first ``kept`` of ``between`` are resized to ``target``.

    Returns:
        ``(target, source)``, rows that sum to one.
    """
    kept = between if kept is None else kept
    return (_step_matrix(kept, target) @ _step_matrix(source, between)[:kept]).astype(np.float32)


def _step_matrix(source: int, target: int) -> NDArray[np.float64]:
    """One resize of ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` along one axis."""
    position = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0.0)
    first = np.minimum(position.astype(np.int64), source - 1)
    second = np.minimum(first + 1, source - 1)
    fraction = position - first
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    matrix[rows, first] += 1.0 - fraction
    matrix[rows, second] += fraction
    return matrix


def _bands(matrix: NDArray[np.float32]) -> list[tuple[slice, slice, NDArray[np.float32]]]:
    """Cuts a banded matrix into tiles of rows: the rows, the columns they use, and that block."""
    bands = []
    for start in range(0, len(matrix), _TILE):
        rows = slice(start, min(start + _TILE, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((rows, columns, np.ascontiguousarray(matrix[rows, columns])))
    return bands
