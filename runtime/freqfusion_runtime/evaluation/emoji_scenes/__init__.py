# SPDX-License-Identifier: Apache-2.0
"""Segmentation scenes of emoji, made from a font: a data set that is a seed and a checksum."""

from freqfusion_runtime.evaluation.emoji_scenes.dataset import CLASSES, PALETTE, VALIDATION_SCENES, EmojiScenes
from freqfusion_runtime.evaluation.emoji_scenes.glyphs import EmojiFontError, Glyphs

__all__ = ["CLASSES", "PALETTE", "VALIDATION_SCENES", "EmojiFontError", "EmojiScenes", "Glyphs"]
