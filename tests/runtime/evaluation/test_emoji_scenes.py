# SPDX-License-Identifier: Apache-2.0
"""Emoji scenes: the same everywhere, labelled to the pixel, split by emoji."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from freqfusion_runtime.evaluation.emoji_scenes import CLASSES, PALETTE, VALIDATION_SCENES, EmojiFontError, EmojiScenes
from freqfusion_runtime.evaluation.emoji_scenes import glyphs as glyphs_module
from freqfusion_runtime.evaluation.emoji_scenes import scene as scene_module
from freqfusion_runtime.evaluation.emoji_scenes.dataset import VALIDATION_SHA256, checksum
from freqfusion_runtime.evaluation.emoji_scenes.glyphs import (
    FONT_FOLDERS,
    FONT_NAME,
    Glyphs,
    emoji_groups,
    split_groups,
)
from freqfusion_runtime.evaluation.emoji_scenes.scene import draw_scene
from PIL import Image, features

UNICODE_LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")
needs_font = pytest.mark.skipif(
    not any((Path(folder) / FONT_NAME).is_file() for folder in FONT_FOLDERS),
    reason="needs the Debian package fonts-noto-color-emoji",
)


@pytest.fixture(scope="module")
def glyphs():
    return Glyphs()


@needs_font
def test_validation_set_is_its_checksum():
    scenes = EmojiScenes("validation")
    assert checksum(scenes[number] for number in range(VALIDATION_SCENES)) == VALIDATION_SHA256


@needs_font
def test_a_scene_does_not_depend_on_those_before_it():
    one, other = EmojiScenes("validation", 64), EmojiScenes("validation", 64)
    other[3]
    assert checksum([one[7]]) == checksum([other[7]])
    assert checksum([one[7]]) != checksum([one[8]])
    assert checksum([one[7]]) != checksum([EmojiScenes("train", 64)[7]])


@needs_font
def test_scenes_hold_what_they_say():
    scenes = EmojiScenes("train")
    seen = set()
    for number in range(20):
        scene = scenes[number]
        assert scene.picture.shape == (256, 256, 3)
        assert scene.labels.shape == (256, 256)
        assert scene.picture.dtype == scene.labels.dtype == np.uint8
        seen |= set(np.unique(scene.labels).tolist())
    assert seen == set(range(len(CLASSES)))
    assert len(PALETTE) == len(CLASSES)


@needs_font
def test_labels_are_exact_to_the_pixel(glyphs, monkeypatch):
    """Draws opaque black shapes over white, without light and noise: the label is where the picture is dark."""
    monkeypatch.setattr(scene_module, "_background", lambda random, side: Image.new("RGB", (side, side), "white"))
    monkeypatch.setattr(scene_module, "_as_photographed", lambda random, picture: picture)
    monkeypatch.setattr(scene_module, "_cast_shadow", lambda *_: None)
    monkeypatch.setattr(scene_module, "_recolored", lambda random, shape: _black(shape))
    for number in range(5):
        # One object only: where several overlap, a half transparent edge shows what lies below it.
        monkeypatch.setattr(scene_module, "AREA_OF_ONE", 2 * 128 * 128)
        scene = draw_scene(Random(number), glyphs, split_groups("train"), 128)
        # Black with coverage a over white is 255 - a; at least half covered means a >= 128.
        np.testing.assert_array_equal(scene.labels > 0, scene.picture[:, :, 0] <= 127)


def _black(shape):
    black = Image.new("RGBA", shape.size, "black")
    black.putalpha(shape.getchannel("A"))
    return black


def test_no_emoji_is_in_both_splits():
    train, validation = split_groups("train"), split_groups("validation")
    assert len(train) == len(validation) == len(CLASSES) - 1 == 8
    for one, other, everything in zip(train, validation, emoji_groups().values(), strict=True):
        assert not set(one) & set(other)
        assert sorted(one + other) == sorted(everything)
        assert 3.9 <= len(one) / len(other) <= 5


@pytest.mark.skipif(not UNICODE_LIST.is_file(), reason="needs the Debian package unicode-data")
def test_groups_are_unicodes():
    groups: dict[str, list[int]] = {}
    for line in UNICODE_LIST.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"# group: (.+)", line):
            group = match[1]
        elif (match := re.match(r"([0-9A-F ]+?)( FE0F)? +; fully-qualified", line)) and " " not in match[1]:
            groups.setdefault(group, []).append(int(match[1], 16))
    for group, codes in emoji_groups().items():
        assert list(codes) == groups[group]


def test_a_missing_font_is_told_with_the_package(monkeypatch, tmp_path):
    monkeypatch.delenv(glyphs_module.FONT_VARIABLE, raising=False)
    monkeypatch.setattr(glyphs_module, "FONT_FOLDERS", (str(tmp_path),))
    with pytest.raises(EmojiFontError, match=r"no emoji font at .*apt-get install fonts-noto-color-emoji"):
        EmojiScenes("validation")


def test_another_version_of_the_font_is_told(monkeypatch, tmp_path):
    other = tmp_path / "other.ttf"
    other.write_bytes(b"another font")
    monkeypatch.setenv(glyphs_module.FONT_VARIABLE, str(other))
    with pytest.raises(EmojiFontError, match=r"has SHA-256 .*, expected e5899ed3.*another version draws other scenes"):
        EmojiScenes("validation")


def test_a_pillow_without_freetype_is_told(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(EmojiFontError, match=r"without FreeType .*pip install --force-reinstall pillow"):
        Glyphs()


@pytest.mark.parametrize("side", [32, 100])
def test_a_side_the_network_cannot_take_is_refused(side):
    with pytest.raises(ValueError, match=f"side must be a multiple of 32, at least 64, got {side}"):
        EmojiScenes("train", side)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be 'train' or 'validation', got 'test'"):
        EmojiScenes("test")
