# SPDX-License-Identifier: Apache-2.0
"""The data set: scenes by split and number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from random import Random

from freqfusion_runtime.evaluation.emoji_scenes.glyphs import Glyphs, split_groups
from freqfusion_runtime.evaluation.emoji_scenes.scene import Scene, draw_scene

CLASSES = ("background", "smiley", "person", "animal or plant", "food", "travel", "activity", "object", "symbol")
PALETTE = (
    (40, 40, 40),
    (255, 213, 0),
    (240, 110, 60),
    (60, 180, 75),
    (220, 40, 80),
    (0, 130, 200),
    (145, 60, 200),
    (70, 210, 210),
    (240, 130, 220),
)
SIDE = 256
VALIDATION_SCENES = 500
VALIDATION_SHA256 = "ded52291dabbc9d227a0c3fdf355f8a93970e8f2a1747e16974361d77548c7f8"


class EmojiScenes:
    """Scenes by number. Training scenes never show an emoji that validation scenes show, and the other way round.

    Args:
        split: ``train`` (as many scenes as one likes) or ``validation`` (the first 500 are the validation set).
        side: Height and width in pixels, a multiple of 32, at least 64; the validation set's is 256.

    Raises:
        EmojiFontError: If the font is missing or another version.
    """

    def __init__(self, split: str, side: int = SIDE) -> None:
        if side < 64 or side % 32:  # the largest objects do not fit into less
            raise ValueError(f"EmojiScenes: side must be a multiple of 32, at least 64, got {side}")
        self.split = split
        self.side = side
        self._groups = split_groups(split)
        self._glyphs = Glyphs()

    def __getitem__(self, number: int) -> Scene:
        """Draws scene ``number``; the same picture whatever was drawn before."""
        return draw_scene(Random(f"{self.split} {number}"), self._glyphs, self._groups, self.side)


def checksum(scenes: Iterable[Scene]) -> str:
    """SHA-256 over the scenes' pictures and labels."""
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(scene.picture.tobytes())
        digest.update(scene.labels.tobytes())
    return digest.hexdigest()
