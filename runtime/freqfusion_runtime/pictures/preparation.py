# SPDX-License-Identifier: Apache-2.0
"""From a decoded picture to the network's input, as the official test pipeline does it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.resize import resize_like_opencv, resize_like_pillow
from freqfusion_runtime.pictures.sizes import keep_ratio_size, network_size


def fit(picture: NDArray[np.uint8], plan: Preprocessing) -> NDArray[np.uint8]:
    """Resizes a picture in the official steps, rounding to 8 bits after each.

    The first keeps the ratio. The second, of plans that stretch, goes on to the network's size; plans that pad leave
    that to :func:`normalise`, since zeros are zeros after normalisation only.

    Args:
        picture: ``(H, W, 3)``, uint8.
        plan: Limits, divisor and how it is met.

    Returns:
        ``(h, w, 3)``, uint8; of :func:`network_size` for a plan that stretches, of :func:`keep_ratio_size` for one that
        pads.
    """
    height, width = picture.shape[:2]
    resize = resize_like_pillow if plan.resizer == "pillow" else resize_like_opencv
    scaled = resize(picture, *keep_ratio_size(height, width, plan))
    return scaled if plan.size_fit == "pad" else resize_like_opencv(scaled, *network_size(height, width, plan))


def normalise(picture: NDArray[np.uint8], plan: Preprocessing) -> NDArray[np.float32]:
    """Turns an RGB picture into a batch of one: ``(value - mean) / std`` in the network's channel order.

    Args:
        picture: ``(H, W, 3)``, uint8, RGB.
        plan: Mean, deviation, channel order, and whether sides are padded.

    Returns:
        ``(1, 3, H, W)``, float32; for a plan that pads, zeros follow below and at the right up to multiples of its
        divisor.
    """
    height, width = picture.shape[:2]
    step = plan.size_divisor if plan.size_fit == "pad" else 1
    channels = picture if plan.color_order == "RGB" else picture[:, :, ::-1]
    result = np.zeros((1, 3, -(-height // step) * step, -(-width // step) * step), np.float32)
    for channel, levels in enumerate(_level_table(plan)):
        np.take(levels, channels[:, :, channel], out=result[0, channel, :height, :width], mode="clip")
    return result


def prepare(picture: NDArray[np.uint8], plan: Preprocessing) -> NDArray[np.float32]:
    """Does the whole of it: :func:`fit`, then :func:`normalise`."""
    return normalise(fit(picture, plan), plan)


def _level_table(plan: Preprocessing) -> NDArray[np.float32]:
    """What each of the 256 levels becomes, ``(3, 256)``: 256 divisions a channel instead of one a pixel.

    Source: ``imnormalize`` of mmcv on OpenCV, bit for bit: a float32 difference, then a double product with 1 / std
    that is rounded to float32.
    """
    centred = np.arange(256, dtype=np.float32) - np.array(plan.mean, np.float32)[:, None]
    return (centred * (1.0 / np.array(plan.std))[:, None]).astype(np.float32)
