# SPDX-License-Identifier: Apache-2.0
"""From a network's class scores, or its queries, to a label map of the picture's size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.errors import NetworkOutputError
from freqfusion_runtime.model_files.manifest import Manifest, Preprocessing
from freqfusion_runtime.pictures.sizes import keep_ratio_size, network_size

MASK_LOGITS, CLASS_LOGITS = "mask_logits", "class_logits"
"""The outputs of a segmenter by queries."""

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
    _check_finite("class scores", scores)
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


def labels_from_queries(
    masks: NDArray[np.floating],
    classes: NDArray[np.floating],
    network_size: tuple[int, int],
    kept_size: tuple[int, int],
    picture_size: tuple[int, int],
) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Sums what queries say of every pixel, and takes the class with the largest sum.

    In the official order: masks are resized to the network's input, the sum is made there, cut to what is no padding,
    and resized to the picture; some rows at a time, so that no class map is stored whole.

    Args:
        masks: Logits ``(Q, h, w)``, any float dtype.
        classes: Logits ``(Q, C + 1)``, the last of no class.
        network_size: ``(height, width)`` of the network's input.
        kept_size: ``(height, width)`` of it without its padding.
        picture_size: ``(height, width)`` of the result.

    Returns:
        ``(height, width)``, uint8 for up to 256 classes, else int32; the lowest class wins a tie.

    Raises:
        NetworkOutputError: If a logit is infinite or not a number.
    """
    _check_finite("mask logits", masks)
    _check_finite("class logits", classes)
    count = classes.shape[1] - 1
    powers = np.exp(classes.astype(np.float32) - classes.max(axis=1, keepdims=True))
    shares = np.ascontiguousarray((powers / powers.sum(axis=1, keepdims=True))[:, :count].T)  # (C, Q)
    up = _step_matrix(masks.shape[1], network_size[0])[: kept_size[0]].astype(np.float32)
    over = _step_matrix(masks.shape[2], network_size[1])[: kept_size[1]].astype(np.float32)
    wide = masks.astype(np.float32) @ over.T  # (Q, h, kept width)
    columns = _bands(_step_matrix(kept_size[1], picture_size[1]).astype(np.float32))
    labels = np.empty(picture_size, np.uint8 if count <= 256 else np.int32)
    for y, rows, down in _bands(_step_matrix(kept_size[0], picture_size[0]).astype(np.float32)):
        used = np.flatnonzero(up[rows].any(axis=0))
        sources = slice(int(used[0]), int(used[-1]) + 1)
        logits = up[rows, sources] @ wide[:, sources]
        present = 0.5 + 0.5 * np.tanh(0.5 * logits)  # the sigmoid, which so overflows nowhere
        scores = (shares @ present.reshape(len(present), -1)).reshape(count, -1, kept_size[1])  # (C, rows, kept width)
        stretched = down @ scores
        for x, within, across in columns:
            labels[y, x] = (stretched[:, :, within] @ across.T).argmax(axis=0)
    return labels


def labels_of_outputs(
    outputs: Mapping[str, NDArray[np.floating]], picture_size: tuple[int, int], manifest: Manifest
) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Makes the label map of a picture of a segmenter's outputs in the tensor interface.

    Args:
        outputs: By name, of one picture: ``mask_logits`` and ``class_logits`` of a segmenter by queries, class scores
            of any other.
        picture_size: ``(height, width)``.
        manifest: Of the segmenter.

    Raises:
        NetworkOutputError: If they are of other shapes than those of one picture and its classes, or not finite.
    """
    plan, (name, *_) = manifest.preprocessing, [spec.name for spec in manifest.outputs]
    if name != MASK_LOGITS:
        scores = outputs[name]
        _check_shape("scores", scores, (1, manifest.num_classes, "h", "w"))
        return labels_of_picture(scores[0], picture_size, plan)
    masks, classes = outputs[MASK_LOGITS], outputs[CLASS_LOGITS]
    _check_shape(MASK_LOGITS, masks, (1, "queries", "h", "w"))
    _check_shape(CLASS_LOGITS, classes, (1, masks.shape[1], manifest.num_classes + 1))
    sizes = network_size(*picture_size, plan), keep_ratio_size(*picture_size, plan)
    return labels_from_queries(masks[0], classes[0], *sizes, picture_size)


def _check_shape(name: str, values: NDArray[Any], expected: tuple[int | str, ...]) -> None:
    sizes = zip(values.shape, expected, strict=False)
    if values.ndim != len(expected) or any(wanted != size for size, wanted in sizes if isinstance(wanted, int)):
        shown = ", ".join(map(str, expected))
        raise NetworkOutputError(
            f"{name} must have shape ({shown}), got {values.shape}. Write the model again with `freqfusion export`."
        )


def _check_finite(name: str, values: NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        raise NetworkOutputError(
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} {name} are infinite or not a number. "
            "The network overflowed: check its weights, or export it with --precision fp32."
        )


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
