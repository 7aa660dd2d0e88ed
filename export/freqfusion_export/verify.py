# SPDX-License-Identifier: Apache-2.0
"""Checks a written ONNX file against the model it came from, before anyone else can pick it up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from freqfusion.detection import Detector
from freqfusion_runtime.manifest import Preprocessing
from freqfusion_runtime.preprocess import prepare
from freqfusion_runtime.tolerances import MAX_ERROR_FP32
from numpy.typing import NDArray
from torch import nn

from freqfusion_export.errors import VerificationError
from freqfusion_export.sample_pictures import smooth_pictures
from freqfusion_export.verify_detector import verify_detector

# batch, height, width: unlike the traced example, square and not, small enough to check in seconds.
TENSOR_SIZES = ((1, 64, 64), (2, 96, 160))
PICTURE_SIZES = ((1, 75, 100), (2, 90, 60))


def verify(path: Path, network: nn.Module, interface: str, preprocessing: Preprocessing) -> dict[str, float]:
    """Compares a file with its network on ONNX Runtime's CPU provider, function bodies only.

    Args:
        path: The file.
        network: What it was exported from.
        interface: ``tensor`` or ``image``.
        preprocessing: For ``image``.

    Returns:
        The worst logit error in standard deviations, or the share of labels that agree; for detectors as
        ``verify_detector``.

    Raises:
        VerificationError: If the file is malformed, cannot run, or computes something else.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnx and onnxruntime raise unrelated types for a bad model
        raise VerificationError(f"{path.name}: the exported graph is malformed: {e}") from e
    if isinstance(network, Detector):
        return verify_detector(path, network, interface, preprocessing)
    generator = np.random.Generator(np.random.PCG64(0))
    if interface == "tensor":
        return {"logit_error": max(_logit_error(session, network, size, generator) for size in TENSOR_SIZES)}
    return {
        "label_agreement": min(
            _label_agreement(session, network, size, generator, preprocessing) for size in PICTURE_SIZES
        )
    }


def _logit_error(session: Any, network: nn.Module, size: tuple[int, int, int], generator: np.random.Generator) -> float:
    n, h, w = size
    images = generator.standard_normal((n, 3, h, w)).astype(np.float32)
    expected = _logits(network, images)
    (actual,) = session.run(None, {"images": images})
    error = float(np.abs(actual - expected).max() / expected.std())
    if not error <= MAX_ERROR_FP32:  # also catches NaN
        raise VerificationError(
            f"the exported graph is off by {error:.1e} standard deviations of the logits at {n} x {h} x {w}, "
            f"allowed {MAX_ERROR_FP32:.0e}; `freqfusion parity --layers` shows where"
        )
    return error


def _label_agreement(
    session: Any,
    network: nn.Module,
    size: tuple[int, int, int],
    generator: np.random.Generator,
    preprocessing: Preprocessing,
) -> float:
    n, h, w = size
    pictures = smooth_pictures(generator, n, h, w)
    images = np.concatenate([prepare(picture, preprocessing) for picture in pictures])
    scores = torch.from_numpy(_logits(network, images))
    spread = float(scores.std())
    steps = [tuple(images.shape[2:]), (h, w)]
    for step in steps:
        scores = nn.functional.interpolate(scores, step, mode="bilinear", align_corners=False)
    best = scores.topk(2, dim=1).values
    undecided = (best[:, 0] - best[:, 1] <= 2 * MAX_ERROR_FP32 * spread).numpy()
    (labels,) = session.run(None, {"image": pictures})
    differs = labels != scores.argmax(dim=1).numpy()
    if (differs & ~undecided).any():
        raise VerificationError(
            f"the exported graph labels {(differs & ~undecided).mean():.2%} of the pixels of a {h} x {w} picture "
            "unlike the model, beyond ties; compare both interfaces with `freqfusion parity` to find the stage"
        )
    return float(1 - differs.mean())


def _logits(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        result: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return result
