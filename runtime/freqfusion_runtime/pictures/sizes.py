# SPDX-License-Identifier: Apache-2.0
"""What size a picture has on its way into a network."""

from __future__ import annotations

import math

from freqfusion_runtime.model_files.manifest import Preprocessing


def keep_ratio_size(height: int, width: int, plan: Preprocessing) -> tuple[int, int]:
    """Scales a size, ratio kept, until its long or its short side meets the plan's limit; or gives its exact size.

    Returns:
        ``(height, width)``, each rounded half up and at least 1.

    Source: ``rescale_size`` of mmcv, which would return 0 for a picture over 4096 times as long as wide; of plans that
    resize as Pillow, ``ResizeShortestEdge`` of detectron2, whose floats round otherwise where a side comes to a half.
    """
    if plan.exact_size is not None:
        return plan.exact_size
    if plan.resizer == "pillow":
        return _shortest_edge_size(height, width, plan)
    factor = min(plan.long_side / max(height, width), plan.short_side / min(height, width))
    return max(1, math.floor(height * factor + 0.5)), max(1, math.floor(width * factor + 0.5))


def _shortest_edge_size(height: int, width: int, plan: Preprocessing) -> tuple[int, int]:
    factor = plan.short_side / min(height, width)
    sides = [factor * height, factor * width]
    sides[height >= width] = plan.short_side
    if max(sides) > plan.long_side:
        back = plan.long_side / max(sides)
        sides = [side * back for side in sides]
    return max(1, math.floor(sides[0] + 0.5)), max(1, math.floor(sides[1] + 0.5))


def network_size(height: int, width: int, plan: Preprocessing) -> tuple[int, int]:
    """Gives the network's input size for a picture: that size, each side rounded up to the divisor."""
    height, width = keep_ratio_size(height, width, plan)
    step = plan.size_divisor
    return -(-height // step) * step, -(-width // step) * step
