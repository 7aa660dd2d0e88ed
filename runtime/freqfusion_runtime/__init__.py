# SPDX-License-Identifier: Apache-2.0
"""Runs exported FreqFusion models without PyTorch: ``freqfusion_runtime.load(path).predict(image)``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqfusion_runtime.errors import FreqFusionError
    from freqfusion_runtime.model_files.manifest import Manifest
    from freqfusion_runtime.predictors.detector import Detector, InstanceSegmenter, PanopticSegmenter
    from freqfusion_runtime.predictors.loading import load
    from freqfusion_runtime.predictors.segmenter import Segmenter
    from freqfusion_runtime.results.detections import Detections, InstanceSegmentation, PanopticSegmentation
    from freqfusion_runtime.results.segmentation import Segmentation

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
    "Detections": "results.detections",
    "Detector": "predictors.detector",
    "FreqFusionError": "errors",
    "InstanceSegmentation": "results.detections",
    "InstanceSegmenter": "predictors.detector",
    "Manifest": "model_files.manifest",
    "PanopticSegmentation": "results.detections",
    "PanopticSegmenter": "predictors.detector",
    "Segmentation": "results.segmentation",
    "Segmenter": "predictors.segmenter",
    "load": "predictors.loading",
}


def __getattr__(name: str) -> Any:
    # numpy, Pillow and ONNX Runtime take a third of a second to import; `freqfusion --help` needs none of them.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
