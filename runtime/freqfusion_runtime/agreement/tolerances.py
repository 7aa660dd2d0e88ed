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
# rms, three roundings' worth, and by 0.8 % at most (docs/precision.md); at 512 x 512 rms errors of 0.45 % were seen
# (SPEC section 4), of which the largest of a million is six times that. The rest is headroom of two. bf16 keeps 8
# bits, so all is 2 ** 3 times as far off. int8: a range that holds 99.99 % of a tensor ends at 3.9 (normal) to 6.5
# (Laplace) of its deviations, so 127 steps to a side have a noise of 6.5 / 127 / sqrt(12) = 1.5 % of the deviation at
# worst, and weights one of 0.8 %: 1.7 % a layer. The stream that blocks add to gathers it from SegNeXt-T's 26
# branches, were each as large as the stream: 1.7 % * sqrt(26) = 8.7 % rms, and 10 times that for the largest of a
# map's numbers, whose tails are long. The trained demo model has 1.6 to 4.6 % rms and 0.65 at most. fp8 keeps 4 bits:
# 2.6 % of each number, in activations and weights, twice int8's noise; the demo has 2.7 to 6.9 % rms and 0.59 at most,
# and half as much again as int8's is what it is allowed.
LOGIT_BOUNDS: Mapping[str, float] = {"fp32": MAX_ERROR_FP32, "fp16": 0.05, "bf16": 0.4, "int8": 0.9, "fp8": 1.3}

# What no processor decides of a half- or 8-bit-typed network: root mean square of the error, and what all but one of a
# thousand errors stay below, over the standard deviation of the reference; of the logits and of every stage alike.
#
# Half types. Rounding to nearest is off by up to u = 2 ** -11 or 2 ** -8 of a number just above a power of two, evenly
# spread; over all numbers that is sqrt(1 / (8 ln 2)) u = 0.425 u of each, rms. The longest path through SegNeXt-T has
# 392 roundings (a test counts them). Were each independent of the others and passed on whole, they would make
# sqrt(392) * 0.425 u = 8.4 u. Averages and normalisations lose some of it: both types have 3.0 u in the logits and
# 5.8 u in the worst of 250 stages. 8 bits: the 8.7 % derived above, and half as much again for fp8.
ROUNDING_RMS = 0.425
ROUNDINGS_IN_A_ROW = 392
RMS_BOUNDS: Mapping[str, float] = {
    "fp16": ROUNDING_RMS * ROUNDINGS_IN_A_ROW**0.5 * 2.0**-11,
    "bf16": ROUNDING_RMS * ROUNDINGS_IN_A_ROW**0.5 * 2.0**-8,
    "int8": 0.087,
    "fp8": 0.13,
}
# A sum of products of normal numbers is spread as Laplace's distribution, one in a thousand beyond ln(1000) / sqrt(2) =
# 4.9 of its rms. Inside, where gating units multiply two such maps, it is the product of two, with 8.5.
HIGH_QUANTILE = 0.999
HIGH_BOUNDS: Mapping[str, float] = {precision: 4.9 * rms for precision, rms in RMS_BOUNDS.items()}
HIGH_INSIDE_BOUNDS: Mapping[str, float] = {precision: 8.5 * rms for precision, rms in RMS_BOUNDS.items()}
# Margin between the two best scores, over the logits' deviation, above which a label must be the right one. It flips
# only if the errors of the two differ by more: sqrt(2) of the rms above, of which five times is one in 3.5 million, and
# twice the largest error of any logit that was seen.
DECIDED_MARGINS: Mapping[str, float] = {precision: 5 * 2**0.5 * rms for precision, rms in RMS_BOUNDS.items()}

# Of segmenters by queries: a mask's logit within this of zero, over the logits' deviation, may hide a key by one right
# computation and show it by another. fp32: ten times what it differs from fp64 by (SPEC of Mask2Former, section 9), as
# pictures of any size are looked at. Half types: five times the rms of a logit's error, one of 3.5 million; 0.0029 and
# 0.031 were seen on Swin-B at 128 x 160.
KEY_MARGINS: Mapping[str, float] = {"fp32": 4e-5, **{precision: 5 * rms for precision, rms in RMS_BOUNDS.items()}}

# Inside the network as for fp32: four times the logits' bound. Of 8 bits, where a layer's noise is in its own input and
# FreqFusion's nodes stay in fp32: as the logits.
INSIDE_BOUNDS: Mapping[str, float] = {
    "fp32": MAX_ERROR_INSIDE_FP32,
    "fp16": 0.2,
    "bf16": 1.6,
    "int8": LOGIT_BOUNDS["int8"],
    "fp8": LOGIT_BOUNDS["fp8"],
}

# A single operator computes in fp32 from given inputs and rounds once: half a unit in the last place of its largest
# result, which is at most 20 standard deviations.
OPERATOR_BOUNDS: Mapping[str, float] = {
    "fp32": MAX_ERROR_FP32,
    "fp16": 20 * 2.0**-11,
    "bf16": 20 * 2.0**-8,
    "int8": MAX_ERROR_FP32,
    "fp8": MAX_ERROR_FP32,
}

# Share of equal labels on a picture, and mean IoU between the label maps of a set, pixels counted over the set before
# anything is divided, as mIoU is defined where it is published. A picture of its own is not held to the latter: one
# pixel of a class of three takes 0.037 from the mean of nine classes, and an fp16 network's error decides by chance
# whether it stays (docs/precision.md). fp16: the project's goal; bf16: eight times as far from 1. 8 bits: labels flip
# in proportion to the logits' noise, 0.4 of the pixels per deviation of rms on the trained demo model (fp16: 0.02 % at
# 0.0005; int8: 1.2 % at 0.03): 3.5 % at the 8.7 % above, which is also what `export` allows by default (`--max-drop`,
# 5 %). Boundaries of small classes lose five times the share of all pixels: 24 scenes have a mIoU of 0.94 with int8
# and of 0.89 with fp8, and headroom of 1.5 is left.
TASK_BOUNDS: Mapping[str, tuple[float, float]] = {
    "fp32": (LABEL_AGREEMENT_FP32, MIOU_FP32),
    "fp16": (0.995, 0.99),
    "bf16": (0.96, 0.92),
    "int8": (0.95, 0.91),
    "fp8": (0.93, 0.84),
}


# Two objects are one if label and box agree; a box of 10 pixels may be off by 0.05 of a pixel for this IoU, and fp32
# differs from fp64 by 5e-4 pixels at worst (SPEC of the detectors, section 8). fp16: offsets are off by at most 0.05
# of their deviation as logits are, which the decoder multiplies by 0.1 of the box (centre) and 0.2 (size): each side
# by 1 % of the box, twice in two stages, and two sides count.
BOX_IOU: Mapping[str, float] = {"fp32": 0.99, "fp16": 0.95}

# By precision and measure of ``object_agreement``; the largest allowed for differences, the least for all others.
# Objects with a partner: between fp32 and fp64 none was lost on the goldens; one of a hundred may sit on a threshold
# of score or overlap. fp16 has such ties wherever two numbers are within 2 ** -11, and another box of equal score
# takes the place of one: with random weights, where proposals overlap most, 3 % on a golden and 8 % on a photograph.
# Scores: 8.7e-5 was seen between two fp32 backends (SPEC section 8, suggested 5e-4). fp16: a score moves by at most a
# quarter of what its logit does, 0.05 of a deviation of two; a box that took another's place has its own score, so the
# mean is held to it (0.01 was seen), not the largest. Masks and panoptic maps, the mean over pairs of the one and the
# quality of one map with the other as the truth: fp32 masks differ by 1 pixel and maps by none, but a mask of 10 x 10
# pixels that loses one has 0.99. fp16: ten times as much. No trained detector was at hand: random weights leave masks
# and classes undecided everywhere, and break these two.
OBJECT_BOUNDS: Mapping[str, Mapping[str, float]] = {
    "fp32": {
        "object_agreement": 0.99,
        "max_score_difference": 5e-4,
        "mean_mask_iou": 0.99,
        "panoptic_quality": 0.99,
    },
    "fp16": {
        "object_agreement": 0.90,
        "mean_score_difference": 0.025,
        "mean_mask_iou": 0.90,
        "panoptic_quality": 0.90,
    },
}
