# SPDX-License-Identifier: Apache-2.0
"""From the masks and classes of queries to a label map at the picture's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion import native


def check_arguments(masks: Tensor, classes: Tensor, sizes: Sequence[int]) -> None:
    """Raises ``ValueError`` unless ``query_argmax`` can run on these arguments."""
    if masks.dim() != 4 or classes.dim() != 3:
        raise ValueError(
            f"query_argmax: masks must have four dimensions (N, Q, h, w) and classes three (N, Q, C + 1), "
            f"got {masks.dim()} and {classes.dim()}"
        )
    if masks.dtype != classes.dtype:
        raise ValueError(f"query_argmax: classes must be {masks.dtype} as masks are, got {classes.dtype}")
    if tuple(classes.shape[:2]) != tuple(masks.shape[:2]) or classes.shape[2] < 2:
        raise ValueError(
            f"query_argmax: classes must have shape ({masks.shape[0]}, {masks.shape[1]}, C + 1) with at least one "
            f"class for masks {tuple(masks.shape)}, got {tuple(classes.shape)}"
        )
    if len(sizes) != 6 or any(size < 1 for size in sizes):
        raise ValueError(
            f"query_argmax: sizes must be six positive numbers (padded, kept and output h, w), got {list(sizes)}"
        )
    if sizes[2] > sizes[0] or sizes[3] > sizes[1]:
        raise ValueError(
            f"query_argmax: the kept size must lie within the padded one, {tuple(sizes[:2])}, got {tuple(sizes[2:4])}"
        )


def class_scores(masks: Tensor, classes: Tensor, sizes: Sequence[int]) -> Tensor:
    """The scores of all classes at the picture's size, ``(N, C, output height, output width)``; see the operator."""
    exact = torch.promote_types(masks.dtype, torch.float32)
    shares = classes.to(exact).softmax(dim=-1)[..., :-1]
    padded = F.interpolate(masks.to(exact), list(sizes[:2]), mode="bilinear", align_corners=False)
    scores = torch.einsum("nqc,nqhw->nchw", shares, padded[:, :, : sizes[2], : sizes[3]].sigmoid())
    return F.interpolate(scores, list(sizes[4:]), mode="bilinear", align_corners=False)


def sum_and_choose(masks: Tensor, classes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Defines the operator with ``interpolate``, image by image to bound the memory of the class maps."""
    images = zip(masks.split(1), classes.split(1), strict=True)
    labels = [class_scores(*image, sizes).argmax(dim=1).to(torch.int32) for image in images]
    return torch.cat(labels) if labels else masks.new_empty((0, *sizes[4:]), dtype=torch.int32)


@torch.library.custom_op("freqfusion::query_argmax", mutates_args=())
def query_argmax(masks: Tensor, classes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums what queries say about every pixel and keeps only the index of the class with the largest sum.

    A class's score at a pixel of the padded image is the sum over queries of (the query's share of that class) times
    (the sigmoid of its mask there). Scores, not masks, are then cropped and resized to the picture.

    Args:
        masks: Logits ``(N, Q, h, w)``, any floating dtype; all arithmetic is fp32 for half types.
        classes: Logits ``(N, Q, C + 1)``, dtype of ``masks``; the last is "no object", which takes its share of the
            softmax and is dropped.
        sizes: ``(padded height, padded width, kept height, kept width, output height, output width)``: the network's
            input, to which mask logits are resized bilinearly; its upper left part that is no padding; the picture.

    Returns:
        ``(N, output height, output width)`` int32 in ``[0, C)``; the lowest index wins a tie.

    Raises:
        ValueError: If the shapes above do not fit together.

    Source: ``MaskFormer.forward`` and ``semantic_inference`` of Mask2Former, with ``sem_seg_postprocess`` of detectron2
    after the sum. There the class maps of the padded image are stored: 245 MB for 150 classes at 640 x 640.
    """
    check_arguments(masks, classes, sizes)
    result = native.query_argmax(masks, classes, sizes)
    return sum_and_choose(masks, classes, sizes) if result is None else result


@query_argmax.register_fake
def _(masks: Tensor, classes: Tensor, sizes: Sequence[int]) -> Tensor:
    check_arguments(masks, classes, sizes)
    return masks.new_empty((masks.shape[0], *sizes[4:]), dtype=torch.int32)
