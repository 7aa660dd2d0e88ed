# SPDX-License-Identifier: Apache-2.0
"""The emoji by group and split, and their bitmaps in Noto Color Emoji."""

from __future__ import annotations

import functools
import hashlib
import os
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from freqfusion_runtime.errors import FreqFusionError

FONT_NAME = "NotoColorEmoji.ttf"
FONT_VERSION = "2.042, Debian 12's fonts-noto-color-emoji 2.042-0+deb12u1"
FONT_SHA256 = "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"
FONT_VARIABLE = "FREQFUSION_EMOJI_FONT"
FONT_FOLDERS = ("/usr/share/fonts/truetype/noto", "/usr/share/fonts/noto", "/usr/share/fonts/google-noto-emoji")
STRIKE = 109  # the only size in the font's bitmap table, in pixels per em
VALIDATION_EVERY = 5  # emoji in Unicode's order, where neighbours are alike: one in five is kept for validation


class EmojiFontError(FreqFusionError):
    """The font is missing or another version, or Pillow cannot draw it."""


@functools.cache
def emoji_groups() -> dict[str, tuple[int, ...]]:
    """Code points by Unicode group, in Unicode's order."""
    text = (
        resources.files("freqfusion_runtime.evaluation.emoji_scenes").joinpath("emoji.txt").read_text(encoding="ascii")
    )
    rows = (line.split(": ") for line in text.splitlines() if not line.startswith("#"))
    return {group: tuple(int(code, 16) for code in codes.split()) for group, codes in rows}


def split_groups(split: str) -> tuple[tuple[int, ...], ...]:
    """Code points of each group in ``split``, ``train`` or ``validation``; the two share none."""
    if split not in ("train", "validation"):
        raise ValueError(f"split must be 'train' or 'validation', got {split!r}")
    is_validation = split == "validation"
    return tuple(
        tuple(code for i, code in enumerate(codes) if (i % VALIDATION_EVERY == VALIDATION_EVERY - 1) == is_validation)
        for codes in emoji_groups().values()
    )


def find_font() -> Path:
    """The font file: ``$FREQFUSION_EMOJI_FONT``, or where distributions put it.

    Raises:
        EmojiFontError: If it is nowhere, or not the version the scenes' checksum is for.
    """
    chosen = os.environ.get(FONT_VARIABLE)
    places = [Path(chosen)] if chosen else [Path(folder) / FONT_NAME for folder in FONT_FOLDERS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise EmojiFontError(
            f"no emoji font at {' or '.join(map(str, places))}; scenes are drawn with Noto Color Emoji {FONT_VERSION}. "
            f"Install it with `apt-get install fonts-noto-color-emoji`, or name the file in {FONT_VARIABLE}."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != FONT_SHA256:
        raise EmojiFontError(
            f"{path} has SHA-256 {found}, expected {FONT_SHA256} (Noto Color Emoji {FONT_VERSION}); another version "
            f"draws other scenes. Get that version from Debian and name the file in {FONT_VARIABLE}."
        )
    return path


class Glyphs:
    """Draws emoji once each and keeps them.

    Raises:
        EmojiFontError: As ``find_font``, and if Pillow was built without FreeType.
    """

    def __init__(self) -> None:
        if not features.check("freetype2"):
            raise EmojiFontError(
                "this Pillow was built without FreeType and cannot draw fonts; "
                "install a wheel of it: `pip install --force-reinstall pillow`."
            )
        path = find_font()
        try:
            # Basic layout: what text shaping would do depends on a library that is not everywhere.
            self._font = ImageFont.truetype(str(path), STRIKE, layout_engine=ImageFont.Layout.BASIC)
        except OSError as e:
            raise EmojiFontError(
                f"{path} cannot be opened by Pillow's FreeType: {e}. It needs one with PNG support for colour bitmaps; "
                "install a wheel of Pillow: `pip install --force-reinstall pillow`."
            ) from e
        self._drawn: dict[int, Image.Image] = {}

    def draw(self, code: int) -> Image.Image:
        """The emoji ``code``, RGBA, cut to its visible part."""
        if code not in self._drawn:
            canvas = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE))
            ImageDraw.Draw(canvas).text((0, 0), chr(code), font=self._font, embedded_color=True)
            self._drawn[code] = canvas.crop(canvas.getbbox())
        return self._drawn[code]
