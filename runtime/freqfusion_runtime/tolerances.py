# SPDX-License-Identifier: Apache-2.0
"""How far apart two right computations may be. Every check of the project takes its bound from here."""

from __future__ import annotations

from collections.abc import Mapping

# Largest error over the standard deviation of the reference. On whole networks fp32 differs from fp64 by up to 6.3e-6,
# on single FreqFusion modules by up to 7.8e-6 (SPEC section 10); two fp32 runs in another order by twice that; the rest
# is headroom for other processors. The smallest mistake of practice, GELU by tanh, is 1.3e-3.
MAX_ERROR_FP32 = 5e-5

# The same for results inside a running network, where the errors of all stages before add up and the resampler turns an
# error of an offset into one of the map it reads, times the map's gradient: 5.7e-5 was seen at 512 x 768.
MAX_ERROR_INSIDE_FP32 = 2e-4

# Share of pixels with equal labels, and mean IoU between the two label maps. Labels flip only where two classes are
# within the error above; with random weights, the least decided case there is, that was 6e-6 of the pixels at worst.
LABEL_AGREEMENT_FP32 = 0.999
MIOU_FP32 = 0.99

# By precision of the file. fp16 keeps 11 bits: on the golden its logits are off by 0.14 % of their standard deviation
# rms, three roundings' worth, and by 0.7 % at most (docs/precision.md); at 512 x 512 rms errors of 0.45 % were seen
# (SPEC section 4), of which the largest of a million is six times that. The rest is headroom of two. bf16 keeps 8 bits,
# so all is 2 ** 3 times as far off.
# 8 bits are judged by what the official model differs from itself between two draws of its random bases (SPEC section
# 7.3): logits by up to 1.3 standard deviations, labels by up to 14.8 %. FreqFusion's own nodes stay in fp32.
_EIGHT_BITS = {"int8": 1.3, "fp8": 1.3}
LOGIT_BOUNDS: Mapping[str, float] = {"fp32": MAX_ERROR_FP32, "fp16": 0.05, "bf16": 0.4, **_EIGHT_BITS}

# Inside the network as for fp32: four times the logits' bound.
INSIDE_BOUNDS: Mapping[str, float] = {"fp32": MAX_ERROR_INSIDE_FP32, "fp16": 0.2, "bf16": 1.6, **_EIGHT_BITS}

# A single operator computes in fp32 from given inputs and rounds once: half a unit in the last place of its largest
# result, which is at most 20 standard deviations.
OPERATOR_BOUNDS: Mapping[str, float] = {
    "fp32": MAX_ERROR_FP32,
    "fp16": 20 * 2.0**-11,
    "bf16": 20 * 2.0**-8,
    "int8": MAX_ERROR_FP32,
    "fp8": MAX_ERROR_FP32,
}

# Share of equal labels and mean IoU between the label maps. fp16: the project's goal, which the official goldens meet
# but for one pixel (docs/precision.md);
# bf16: eight times as far from 1. 8 bits: see above; a trained model is judged by its mean IoU on real labels besides.
TASK_BOUNDS: Mapping[str, tuple[float, float]] = {
    "fp32": (LABEL_AGREEMENT_FP32, MIOU_FP32),
    "fp16": (0.995, 0.99),
    "bf16": (0.96, 0.92),
    "int8": (0.85, 0.70),
    "fp8": (0.85, 0.70),
}


# Two objects are one if label and box agree; a box of 10 pixels may be off by 0.05 of a pixel for this IoU, and fp32
# differs from fp64 by 5e-4 pixels at worst (SPEC of the detectors, section 8).
BOX_IOU = 0.99

# Share of objects with a partner. Between fp32 and fp64 none was lost on the goldens; one of a hundred may sit on a
# threshold of score or overlap.
OBJECT_AGREEMENT_FP32 = 0.99

# Largest difference of a pair's scores: 8.7e-5 was seen between two fp32 backends (SPEC section 8, suggested 5e-4).
SCORE_FP32 = 5e-4

# Mean over pairs of masks, and panoptic quality of one answer with the other as the truth: masks differ by 1 pixel and
# panoptic maps by none (SPEC section 8), but a mask of 10 x 10 pixels that loses one has 0.99.
MASK_IOU_FP32 = 0.99
PANOPTIC_FP32 = 0.99
