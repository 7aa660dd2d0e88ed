# SPDX-License-Identifier: Apache-2.0
"""From a segmenter's logits to label maps, by PyTorch's definition of every resize."""

from __future__ import annotations

from typing import Any

import torch
from freqfusion import native
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.sizes import keep_ratio_size, network_size
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate


def labels_by_pytorch(logits: Tensor, picture_size: tuple[int, int], plan: Preprocessing) -> NDArray[Any]:
    """Resizes ``(N, C, h, w)`` logits to the network's input and on to the picture: ``(N, H, W)`` labels.

    Between the two resizes the padding of a plan that pads is cut off.
    """
    step = network_size(*picture_size, plan)
    with torch.inference_mode(), native.disabled():
        if plan.size_fit == "pad":
            height, width = keep_ratio_size(*picture_size, plan)
            logits = interpolate(logits, step, mode="bilinear", align_corners=False)[:, :, :height, :width]
            step = height, width
        labels: NDArray[Any] = torch.ops.freqfusion.resize_argmax(logits, [*step, *picture_size], False).cpu().numpy()
    return labels
