# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN, Mask R-CNN and Panoptic FPN with FreqFusion in the pyramid, in the official names."""

from freqfusion.detection.detector import Detector

__all__ = ["Detector"]
