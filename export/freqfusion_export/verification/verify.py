# SPDX-License-Identifier: Apache-2.0
"""Checks a written ONNX file against the model it came from, before anyone else can pick it up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from freqfusion.detection import Detector
from freqfusion_runtime.agreement.comparison import label_agreement
from freqfusion_runtime.agreement.tolerances import LOGIT_BOUNDS, TASK_BOUNDS
from freqfusion_runtime.model_files.manifest import Preprocessing
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.reading import read_picture
from freqfusion_runtime.results.labels import labels_from_scores
from numpy.typing import NDArray
from torch import nn

from freqfusion_export.errors import VerificationError
from freqfusion_export.precision.calibration import Calibration
from freqfusion_export.precision.emulation import emulated
from freqfusion_export.precision.sensitivity import eight_bit_session
from freqfusion_export.verification.sample_pictures import smooth_pictures
from freqfusion_export.verification.verify_detector import verify_detector

# batch, height, width: unlike the traced example, square and not, small enough to check in seconds.
TENSOR_SIZES = ((1, 64, 64), (2, 96, 160))
PICTURE_SIZES = ((1, 75, 100), (2, 90, 60))
ONLY_EMULATED = ("bf16",)  # ONNX Runtime 1.32's CPU provider has no kernels for it


def verify(
    path: Path,
    network: nn.Module,
    interface: str,
    preprocessing: Preprocessing,
    precision: str = "fp32",
    full_size: bool = False,
) -> dict[str, float]:
    """Compares a file with its network on ONNX Runtime's CPU provider, function bodies only.

    A half-typed file is run with every rounding it asks for (``precision.emulation``), and one of fp16, which ONNX
    Runtime takes, as it is besides.

    Args:
        path: The file.
        network: What it was exported from.
        interface: ``tensor`` or ``image``.
        preprocessing: For ``image``.
        precision: Whose tolerance it is held to.
        full_size: Of a detector, compare an image of the largest size too.

    Returns:
        The worst logit error in standard deviations, or the share of labels that agree; for detectors as
        ``verify_detector``.

    Raises:
        VerificationError: If the file is malformed, cannot run, or computes something else.
    """
    session, *others = _sessions(path, precision)
    if isinstance(network, Detector):
        return verify_detector(path, network, interface, preprocessing, full_size, precision)
    generator = np.random.Generator(np.random.PCG64(0))
    if interface == "tensor":
        errors = [_logit_error(session, network, size, generator, precision) for size in TENSOR_SIZES]
        errors += [_logit_error(other, network, TENSOR_SIZES[0], generator, precision) for other in others]
        return {"logit_error": max(errors)}
    settings = (generator, preprocessing, precision)
    shares = [_label_agreement(session, network, size, *settings) for size in PICTURE_SIZES]
    shares += [_label_agreement(other, network, PICTURE_SIZES[0], *settings) for other in others]
    return {"label_agreement": min(shares)}


def verify_on_pictures(
    path: Path,
    network: nn.Module,
    interface: str,
    preprocessing: Preprocessing,
    precision: str,
    calibration: Calibration,
    max_drop: float,
) -> float:
    """Compares an 8-bit file's label maps with its network's on up to two calibration pictures.

    Ranges fit the pictures they were taken from: noise, which ``verify`` uses, would be cut off. One picture may lose
    twice what was allowed for all together.

    Returns:
        The lower share of labels that agree.

    Raises:
        VerificationError: As ``verify``.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
        session = eight_bit_session(str(path), optimise=precision != "fp8")
    except Exception as e:  # as below
        raise VerificationError(f"{path.name}: the exported graph is malformed: {e}") from e
    least, shares = 1 - 2 * max_drop, []
    for picture in map(read_picture, calibration.pictures[:2]):
        images = prepare(picture, preprocessing)
        sizes = (images.shape[2], images.shape[3]), picture.shape[:2]
        expected = labels_from_scores(_logits(network, images)[0], *sizes)
        if interface == "image":
            labels = session.run(None, {"image": picture[None]})[0][0]
        else:
            labels = labels_from_scores(session.run(None, {"images": images})[0][0], *sizes)
        shares.append(label_agreement(labels, expected))
    worst = min(shares)
    if not worst >= least:
        raise VerificationError(
            f"the exported graph labels {1 - worst:.2%} of a calibration picture's pixels unlike the model, more than "
            f"twice the {max_drop:.1%} allowed of all; calibrate with more pictures, lower --max-drop, "
            "or export another precision"
        )
    return worst


def _sessions(path: Path, precision: str) -> list[Any]:
    """The session that every size is tried on, and those that need to run once."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = []
    try:
        onnx.checker.check_model(path, full_check=True)
        if precision in ("fp16", "bf16"):
            content = ir.to_proto(emulated(path)).SerializeToString()
            sessions.append(onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]))
        if precision not in ONLY_EMULATED:
            sessions.append(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    except Exception as e:  # onnx and onnxruntime raise unrelated types for a bad model
        raise VerificationError(f"{path.name}: the exported graph is malformed: {e}") from e
    return sessions


def _logit_error(
    session: Any, network: nn.Module, size: tuple[int, int, int], generator: np.random.Generator, precision: str
) -> float:
    n, h, w = size
    images = generator.standard_normal((n, 3, h, w)).astype(np.float32)
    expected = _logits(network, images)
    (actual,) = session.run(None, {"images": images})
    error = float(np.abs(actual - expected).max() / expected.std())
    bound = LOGIT_BOUNDS[precision]
    if not error <= bound:  # also catches NaN
        raise VerificationError(
            f"the exported graph is off by {error:.1e} standard deviations of the logits at {n} x {h} x {w}, "
            f"allowed {bound:.0e}{_remedy(precision)}"
        )
    return error


def _remedy(precision: str) -> str:
    if precision == "fp32":
        return "; `freqfusion parity --layers` shows where"
    return (
        f" for {precision}; calibrate with typical pictures (--calibration), keep a stage with --keep-fp32, "
        "or export another precision"
    )


def _label_agreement(
    session: Any,
    network: nn.Module,
    size: tuple[int, int, int],
    generator: np.random.Generator,
    preprocessing: Preprocessing,
    precision: str,
) -> float:
    n, h, w = size
    pictures = smooth_pictures(generator, n, h, w)
    images = np.concatenate([prepare(picture, preprocessing) for picture in pictures])
    scores = torch.from_numpy(_logits(network, images))
    if not scores.isfinite().all():  # their labels would be 0 everywhere, in any file
        raise VerificationError(
            f"{int((~scores.isfinite()).sum())} of {scores.numel()} class scores of the model itself are infinite or "
            f"not a number on a {h} x {w} picture, so there is nothing to compare with; look at its weights"
        )
    spread = float(scores.std())
    steps = [tuple(images.shape[2:]), (h, w)]
    for step in steps:
        scores = nn.functional.interpolate(scores, step, mode="bilinear", align_corners=False)
    best = scores.topk(2, dim=1).values
    undecided = (best[:, 0] - best[:, 1] <= 2 * LOGIT_BOUNDS[precision] * spread).numpy()
    (labels,) = session.run(None, {"image": pictures})
    differs = labels != scores.argmax(dim=1).numpy()
    if (differs & ~undecided).any() or differs.mean() > 1 - TASK_BOUNDS[precision][0]:
        where = _remedy(precision)
        if precision == "fp32":
            where = "; compare both interfaces with `freqfusion parity` to find the stage"
        raise VerificationError(
            f"the exported graph labels {differs.mean():.2%} of the pixels of a {h} x {w} picture unlike the model, "
            f"{(differs & ~undecided).mean():.2%} of them beyond ties{where}"
        )
    return float(1 - differs.mean())


def _logits(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        result: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
    return result
