# SPDX-License-Identifier: Apache-2.0
"""How far apart two right computations may be. Every check of the project takes its bound from here."""

from __future__ import annotations

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

# The two above by precision of the file, for everything that compares label maps: (label agreement, mIoU). fp16 keeps
# 11 bits, and with the islands in fp32 its logits are off by 0.2 to 0.5 % of their standard deviation, which flips the
# labels of pixels whose two best classes are closer than that.
TASK_BOUNDS = {"fp32": (LABEL_AGREEMENT_FP32, MIOU_FP32), "fp16": (0.995, 0.99)}

# Largest logit error over the standard deviation, by precision.
LOGIT_BOUNDS = {"fp32": MAX_ERROR_FP32}

# Share of equal labels between two draws of the NMF bases in the official model, mean of six draws at 512 x 512 (SPEC
# section 7.3): what PyTorch's own randomness costs, and so the scale to read all others by.
NMF_SEED_AGREEMENT = 0.915
