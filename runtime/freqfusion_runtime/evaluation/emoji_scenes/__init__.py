# SPDX-License-Identifier: Apache-2.0
"""Semantic-segmentation scenes of emoji, made from a font: a data set that is a seed and a checksum, not files."""

from freqfusion_runtime.evaluation.emoji_scenes.dataset import CLASSES, PALETTE, VALIDATION_SCENES, EmojiScenes
from freqfusion_runtime.evaluation.emoji_scenes.glyphs import EmojiFontError, Glyphs

__all__ = ["CLASSES", "PALETTE", "VALIDATION_SCENES", "EmojiFontError", "EmojiScenes", "Glyphs"]
