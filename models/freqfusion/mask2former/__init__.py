# SPDX-License-Identifier: Apache-2.0
"""Mask2Former on Swin with FreqFusion in its pixel decoder, in the official names."""

from freqfusion.mask2former.segmenter import Mask2Former

__all__ = ["Mask2Former"]
