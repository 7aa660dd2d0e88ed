# SPDX-License-Identifier: Apache-2.0
"""The operators of FreqFusion and of detectors, as ``torch.ops.freqfusion.*``."""

from freqfusion.ops.adaptive_filter import FilterMode, adaptive_filter, normalize_taps
from freqfusion.ops.carafe import carafe
from freqfusion.ops.deformable_attention import deformable_attention
from freqfusion.ops.local_similarity import local_similarity
from freqfusion.ops.nms import nms
from freqfusion.ops.offset_resample import offset_resample
from freqfusion.ops.padding import Padding
from freqfusion.ops.pyramid_roi_align import pyramid_roi_align
from freqfusion.ops.query_argmax import query_argmax
from freqfusion.ops.resize_argmax import resize_argmax
from freqfusion.ops.roi_align import roi_align

__all__ = [
    "FilterMode",
    "Padding",
    "adaptive_filter",
    "carafe",
    "deformable_attention",
    "local_similarity",
    "nms",
    "normalize_taps",
    "offset_resample",
    "pyramid_roi_align",
    "query_argmax",
    "resize_argmax",
    "roi_align",
]
