# SPDX-License-Identifier: Apache-2.0
"""Runs exported FreqFusion models without PyTorch: ``freqfusion_runtime.load(path).predict(image)``.

Rooms, from the ground up:

    model_files/              What a model file says of itself: manifest, nodes, facts.
    model_files/classes/      Names and colours of classes: ADE20K, COCO, a checkpoint's own.
    model_files/plain/        Models of standard operators alone, for readers that know no functions; needs onnx.
    pictures/                 From a picture file to a network's input.
    sessions/                 What computes a network, and ONNX Runtime as one such engine.
    results/                  What was found in a picture: as arrays, as files, as drawings.
    engines/                  Runs TensorRT and TensorRT-RTX engines: CUDA, streams, profiles, records.
    predictors/               Pictures in, results out: opens model files and wraps them by task.
    evaluation/               How good answers are: data sets with known answers, scores with their uncertainty.
    evaluation/emoji_scenes/  Segmentation scenes of emoji, made from a font: a data set that is a seed and a checksum.
    agreement/                How far two answers are apart, how far they may be, and what PyTorch answered.
    building/                 Makes engines of ONNX files, caches them, and holds them to what they should compute.
    batch/                    Labels very many pictures: resumable, on one machine's processes or on a Ray cluster.
    serving/                  Serves models over HTTP and gRPC, and writes what other servers need.
    serving/operation/        What an operator sets and sees: settings, errors, logs, metrics, addresses.
    serving/scheduling/       Which model computes which request when, within which memory.
    serving/http/             Pictures over HTTP: requests, answers, routes.
    serving/oip/              The Open Inference Protocol, over HTTP and gRPC.
    serving/process/          The server as a process: application, listeners, supervision.
    serving/triton/           Model repositories for Triton Inference Server.
    commands/                 The command line, and the commands that need no PyTorch, one module each.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freqfusion_runtime.errors import FreqFusionError
    from freqfusion_runtime.model_files.manifest import Manifest
    from freqfusion_runtime.predictors.detector import Detector, InstanceSegmenter, PanopticSegmenter
    from freqfusion_runtime.predictors.loading import load
    from freqfusion_runtime.predictors.network import Network
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
    "Network",
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
    "Network": "predictors.network",
    "PanopticSegmentation": "results.detections",
    "PanopticSegmenter": "predictors.detector",
    "Segmentation": "results.segmentation",
    "Segmenter": "predictors.segmenter",
    "load": "predictors.loading",
}


# ONNX Runtime keeps a database in the home folder and names a host of its vendor's, unless it is told not to before it
# is imported: findings/onnxruntime-keeps-a-database.sh.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    # numpy, Pillow and ONNX Runtime take a third of a second to import; `freqfusion --help` needs none of them.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
