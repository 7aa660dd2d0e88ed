# SPDX-License-Identifier: Apache-2.0
"""The official test pipelines, which stand in for what a config does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "color_order": "RGB"}
SEGMENTER: Mapping[str, Any] = {
    **_IMAGENET, "long_side": 2048, "short_side": 512, "size_divisor": 32, "size_fit": "stretch",
}  # fmt: skip
MASK2FORMER: Mapping[str, Any] = {
    **_IMAGENET, "long_side": 2560, "short_side": 640, "size_divisor": 32, "size_fit": "pad",
    "resizer": "pillow",
}  # fmt: skip
DETECTOR: Mapping[str, Any] = {
    **_IMAGENET, "long_side": 1333, "short_side": 800, "size_divisor": 64, "size_fit": "pad",
}  # fmt: skip
