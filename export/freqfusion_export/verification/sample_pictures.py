# SPDX-License-Identifier: Apache-2.0
"""Pictures to check exported files with, made up so that none has to be shipped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smooth_pictures(generator: np.random.Generator, n: int, h: int, w: int) -> NDArray[np.uint8]:
    """Makes ``(n, h, w, 3)`` pictures of waves and noise, all levels in use."""
    y, x = np.mgrid[:h, :w]
    phase = generator.uniform(0, 6, (n, 1, 1, 3))
    waves = np.sin(0.11 * x[None, :, :, None] + 0.07 * y[None, :, :, None] + phase)
    noise = 0.3 * generator.standard_normal((n, h, w, 3))
    pictures: NDArray[np.uint8] = np.clip(127.5 + 100 * (waves + noise), 0, 255).astype(np.uint8)
    return pictures
