# SPDX-License-Identifier: Apache-2.0
"""From a segmenter's outputs to label maps, by PyTorch's definition of every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from freqfusion import native
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.sizes import keep_ratio_size, network_size
from freqfusion_runtime.results.labels import CLASS_LOGITS, MASK_LOGITS
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate


def labels_by_pytorch(
    outputs: Mapping[str, Tensor], picture_size: tuple[int, int], plan: Preprocessing
) -> NDArray[Any]:
    """Makes ``(N, H, W)`` labels of the size of the picture.

    Args:
        outputs: The network's, by the names of its form: logits, or those of masks and classes.
        picture_size: ``(H, W)``.
        plan: How the pictures were prepared. Padding is cut off before the last resize.
    """
    padded = network_size(*picture_size, plan)
    kept = keep_ratio_size(*picture_size, plan) if plan.size_fit == "pad" else padded
    with torch.inference_mode(), native.disabled():
        if MASK_LOGITS in outputs:
            queries = outputs[MASK_LOGITS], outputs[CLASS_LOGITS]
            labels = torch.ops.freqfusion.query_argmax(*queries, [*padded, *kept, *picture_size])
        else:
            (logits,) = outputs.values()
            if plan.size_fit == "pad":
                logits = interpolate(logits, padded, mode="bilinear", align_corners=False)[:, :, : kept[0], : kept[1]]
            labels = torch.ops.freqfusion.resize_argmax(logits, [*kept, *picture_size], False)
    found: NDArray[Any] = labels.cpu().numpy()
    return found
