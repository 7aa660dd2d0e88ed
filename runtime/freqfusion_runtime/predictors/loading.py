# SPDX-License-Identifier: Apache-2.0
"""The runtime's front door: a model file in, something that predicts out."""

from __future__ import annotations

import os
from typing import TypeAlias

from freqfusion_runtime.pictures.reading import MAX_PIXELS
from freqfusion_runtime.predictors.detector import Detector, InstanceSegmenter, PanopticSegmenter
from freqfusion_runtime.predictors.network import Network
from freqfusion_runtime.predictors.opening import open_session
from freqfusion_runtime.predictors.segmenter import Segmenter
from freqfusion_runtime.sessions.protocol import Kernels, Provider, Session

ObjectFinder: TypeAlias = Detector | InstanceSegmenter | PanopticSegmenter
Predictor: TypeAlias = Segmenter | ObjectFinder | Network


def load(
    path: str | os.PathLike[str],
    *,
    provider: Provider = "cpu",
    threads: int = 0,
    kernels: Kernels = "auto",
    max_pixels: int = MAX_PIXELS,
    trust: bool = False,
) -> Predictor:
    """Opens an exported model.

    Args:
        path: An ``.onnx`` file written by ``freqfusion export``, of either interface, or a plan of `freqfusion build`.
        provider: Where to run an ONNX file; there is no fallback to another place. A plan runs on its GPU.
        threads: Cores to use for one picture, 0 for all.
        kernels: ``auto`` uses the custom-operator library where it is found, ``never`` does not, ``require`` insists.
        max_pixels: Pictures with more are refused before they are decoded.
        trust: Load a plan that is not the one its manifest tells of. A plan is code.

    Returns:
        What the model is made for: a Segmenter, Detector, InstanceSegmenter or PanopticSegmenter, each with
        ``predict(image)``; or a Network, with ``run(arrays)``.

    Raises:
        FreqFusionError: If the file or the device cannot be used; the subclass says why.
    """
    return predictor_of(
        open_session(path, provider=provider, threads=threads, kernels=kernels, trust=trust), max_pixels
    )


def predictor_of(session: Session, max_pixels: int = MAX_PIXELS) -> Predictor:
    """Wraps an open session in the class for its model's task."""
    match session.manifest.task:
        case "semantic_segmentation":
            return Segmenter(session, max_pixels)
        case "detection":
            return Detector(session, max_pixels)
        case "instance_segmentation":
            return InstanceSegmenter(session, max_pixels)
        case "panoptic_segmentation":
            return PanopticSegmenter(session, max_pixels)
        case "network":
            return Network(session)
