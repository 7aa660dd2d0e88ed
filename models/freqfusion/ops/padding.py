# SPDX-License-Identifier: Apache-2.0
"""What the windows of a reassembly read outside the map."""

from __future__ import annotations

from enum import IntEnum

import torch.nn.functional as F
from torch import Tensor


class Padding(IntEnum):
    """What taps outside the map read. The values are those of the ONNX attribute ``padding``."""

    ZEROS = 0  # zero: mmcv
    REFLECT = 1  # the pixel as far inside, the edge being the mirror: the author's later fallback


def pad(features: Tensor, radius: int, padding: int) -> Tensor:
    """``(N, C, H, W)`` with ``radius`` more pixels on every side."""
    return F.pad(features, (radius,) * 4, "reflect" if padding == Padding.REFLECT and radius else "constant")
