# SPDX-License-Identifier: Apache-2.0
"""Runs exported FreqFusion models without PyTorch: ``freqfusion_runtime.load(path).predict(image)``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqfusion_runtime.detections import Detections, InstanceSegmentation, PanopticSegmentation
    from freqfusion_runtime.detector import Detector, InstanceSegmenter, PanopticSegmenter
    from freqfusion_runtime.errors import FreqFusionError
    from freqfusion_runtime.loading import load
    from freqfusion_runtime.manifest import Manifest
    from freqfusion_runtime.segmentation import Segmentation
    from freqfusion_runtime.segmenter import Segmenter

__all__ = [
    "Detections",
    "Detector",
    "FreqFusionError",
    "InstanceSegmentation",
    "InstanceSegmenter",
    "Manifest",
    "PanopticSegmentation",
    "PanopticSegmenter",
    "Segmentation",
    "Segmenter",
    "load",
]

_HOME = {
    "Detections": "detections",
    "Detector": "detector",
    "FreqFusionError": "errors",
    "InstanceSegmentation": "detections",
    "InstanceSegmenter": "detector",
    "Manifest": "manifest",
    "PanopticSegmentation": "detections",
    "PanopticSegmenter": "detector",
    "Segmentation": "segmentation",
    "Segmenter": "segmenter",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    # numpy, Pillow and ONNX Runtime take a third of a second to import; `freqfusion --help` needs none of them.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
