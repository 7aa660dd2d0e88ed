# SPDX-License-Identifier: Apache-2.0
"""Compares a written segmenter with the model it came from: its logits, or its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from freqfusion_runtime.agreement.tolerances import LOGIT_BOUNDS, TASK_BOUNDS
from freqfusion_runtime.pictures.preparation import prepare
from freqfusion_runtime.pictures.sizes import keep_ratio_size
from torch import nn

from freqfusion_export.errors import VerificationError
from freqfusion_export.precision.protocol import WrittenFile
from freqfusion_export.verification.sample_pictures import smooth_pictures

# batch, height, width: unlike the traced example, square and not, small enough to check in seconds.
TENSOR_SIZES = ((1, 64, 64), (2, 96, 160))
PICTURE_SIZES = ((1, 75, 100), (2, 90, 60))


@dataclass(frozen=True)
class SegmenterFile(WrittenFile):
    """A file that scores or labels pixels."""

    def compare(self, precision: str, sessions: Sequence[Any]) -> dict[str, float]:
        """See ``WrittenFile``: the first session runs at every size, the others at one.

        Returns:
            The worst logit error in standard deviations, or the share of labels that agree.
        """
        session, *others = sessions
        generator = np.random.Generator(np.random.PCG64(0))
        if self.interface == "tensor":
            errors = [_logit_error(session, self, size, generator, precision) for size in TENSOR_SIZES]
            errors += [_logit_error(other, self, TENSOR_SIZES[0], generator, precision) for other in others]
            return {"logit_error": max(errors)}
        shares = [_label_agreement(session, self, size, generator, precision) for size in PICTURE_SIZES]
        shares += [_label_agreement(other, self, PICTURE_SIZES[0], generator, precision) for other in others]
        return {"label_agreement": min(shares)}


def _logit_error(
    session: Any, file: SegmenterFile, size: tuple[int, int, int], generator: np.random.Generator, precision: str
) -> float:
    n, h, w = size
    images = generator.standard_normal((n, 3, h, w)).astype(np.float32)
    expected = file.scores(images)
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
    session: Any, file: SegmenterFile, size: tuple[int, int, int], generator: np.random.Generator, precision: str
) -> float:
    n, h, w = size
    pictures = smooth_pictures(generator, n, h, w)
    images = np.concatenate([prepare(picture, file.preprocessing) for picture in pictures])
    scores = torch.from_numpy(file.scores(images))
    if not scores.isfinite().all():  # their labels would be 0 everywhere, in any file
        raise VerificationError(
            f"{int((~scores.isfinite()).sum())} of {scores.numel()} class scores of the model itself are infinite or "
            f"not a number on a {h} x {w} picture, so there is nothing to compare with; look at its weights"
        )
    spread = float(scores.std())
    scores = nn.functional.interpolate(scores, images.shape[2:], mode="bilinear", align_corners=False)
    if file.preprocessing.size_fit == "pad":
        height, width = keep_ratio_size(h, w, file.preprocessing)
        scores = scores[:, :, :height, :width]
    scores = nn.functional.interpolate(scores, (h, w), mode="bilinear", align_corners=False)
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
