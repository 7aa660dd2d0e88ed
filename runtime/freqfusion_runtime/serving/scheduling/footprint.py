# SPDX-License-Identifier: Apache-2.0
"""What a model's run costs in memory, measured once, so that it is known of every later run before it begins."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from freqfusion_runtime.model_files.manifest import Manifest
from freqfusion_runtime.pictures.sizes import network_size

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"
# A pixel as uint8 in and as int32 out; and as float32 in and, at an eighth of each side, 150 classes out.
_LEAST_PICTURE, _LEAST_NETWORK = 7.0, 24.0


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run takes beside its inputs, for each pixel.

    Args:
        network: For each pixel of the network's own input, which a picture is resized to; of a model for ``network``
            each number of its first input.
        picture: For each pixel of a picture as it was sent, where the network resizes it itself.
    """

    network: float = _LEAST_NETWORK
    picture: float = _LEAST_PICTURE

    def run_bytes(self, manifest: Manifest, shape: tuple[int, ...]) -> int:
        """What a run takes.

        Args:
            manifest: Of the model.
            shape: Of its first input.
        """
        if manifest.task == "network":
            return round(self.network * math.prod(shape))
        if manifest.interface == "image":
            items, height, width = shape[:3]
            inner_height, inner_width = network_size(height, width, manifest.preprocessing)
            each = self.network * inner_height * inner_width + self.picture * height * width
        else:
            items, _, height, width = shape
            each = self.network * height * width
        return round(items * each)


@dataclass(frozen=True)
class Run:
    """A run to be measured, and how many pixels the network's input and the picture have in it."""

    work: Callable[[], object]
    network_pixels: int
    picture_pixels: int


def measure(usual: Run, larger: Run | None) -> Footprint:
    """Does both runs and measures how far the process grows meanwhile.

    ONNX Runtime keeps what a run took for the next one, so the second shows what it needs beyond the first. What other
    threads do at the same time counts as well: this is for a process that is at rest.

    Args:
        usual: The model's first run of all; what is made once counts as if each run made it.
        larger: One of a larger picture; None for a model that takes no other.

    Returns:
        At least what the tensors themselves take.
    """
    start = _told("VmRSS")
    first = _growth(usual, start)
    network = max(_LEAST_NETWORK, first / usual.network_pixels)
    if larger is None:
        return Footprint(network)
    both = max(first, _growth(larger, start))
    if larger.network_pixels > usual.network_pixels:
        return Footprint(max(network, both / larger.network_pixels))
    more = larger.picture_pixels - usual.picture_pixels
    return Footprint(network, max(_LEAST_PICTURE, (both - first) / more))


def _growth(run: Run, start: int) -> int:
    with contextlib.suppress(OSError):
        # Elsewhere than on Linux there is no such file, and a peak that is gone when the run ends is not seen.
        _CLEAR.write_text(_CLEAR_PEAK)
    run.work()
    return max(0, _told("VmHWM") - start)


def _told(field: str) -> int:
    """Reads a number of bytes that the kernel tells of this process; 0 where it tells none."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0
