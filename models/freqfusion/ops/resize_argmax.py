# SPDX-License-Identifier: Apache-2.0
"""From class scores at low resolution to a label map at the picture's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion import native


def check_arguments(scores: Tensor, sizes: Sequence[int]) -> None:
    """Raises ``ValueError`` unless ``resize_argmax`` can run on these arguments."""
    if scores.dim() != 4:
        raise ValueError(f"resize_argmax: scores must have four dimensions (N, C, h, w), got {scores.dim()}")
    if scores.shape[1] < 1:
        raise ValueError("resize_argmax: scores must have at least one class, got none")
    if len(sizes) != 4 or any(size < 1 for size in sizes):
        raise ValueError(f"resize_argmax: sizes must be four positive numbers (two steps of h, w), got {list(sizes)}")


def resize_and_choose(scores: Tensor, sizes: Sequence[int], align_corners: bool) -> Tensor:
    """Defines the operator with ``interpolate``, image by image to bound the memory of the class maps."""
    exact = torch.promote_types(scores.dtype, torch.float32)
    labels = []
    for image in scores.to(exact).split(1):
        step = F.interpolate(image, list(sizes[:2]), mode="bilinear", align_corners=align_corners)
        final = F.interpolate(step, list(sizes[2:]), mode="bilinear", align_corners=align_corners)
        labels.append(final.argmax(dim=1).to(torch.int32))
    return torch.cat(labels) if labels else scores.new_empty((0, *sizes[2:]), dtype=torch.int32)


@torch.library.custom_op("freqfusion::resize_argmax", mutates_args=())
def resize_argmax(scores: Tensor, sizes: Sequence[int], align_corners: bool) -> Tensor:
    """Resizes every class map bilinearly, in two steps, and keeps only the index of the largest.

    Args:
        scores: ``(N, C, h, w)``, any floating dtype; all arithmetic is fp32 for half types.
        sizes: ``(step height, step width, output height, output width)``. The official pipelines resize to the
            network's input size, then to the picture's; a single resize is two equal pairs.
        align_corners: As in ``torch.nn.functional.interpolate``.

    Returns:
        ``(N, output height, output width)`` int32 in ``[0, C)``; the lowest index wins a tie.

    Raises:
        ValueError: If ``scores`` or ``sizes`` is malformed.

    Source: ``EncoderDecoder.whole_inference`` of mmsegmentation 0.x, less the softmax, which changes no argmax.
    """
    check_arguments(scores, sizes)
    result = native.resize_argmax(scores, sizes, align_corners)
    return resize_and_choose(scores, sizes, align_corners) if result is None else result


@resize_argmax.register_fake
def _(scores: Tensor, sizes: Sequence[int], align_corners: bool) -> Tensor:
    check_arguments(scores, sizes)
    return scores.new_empty((scores.shape[0], *sizes[2:]), dtype=torch.int32)
