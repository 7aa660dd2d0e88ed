# SPDX-License-Identifier: Apache-2.0
"""Draws one scene and its label map.

All arithmetic is on integers: Pillow's 8-bit operations with coefficients that are multiples of a power of two, and
``random.Random`` for every choice. So a seed gives the same bytes on every processor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from freqfusion_runtime.evaluation.emoji_scenes.glyphs import Glyphs

FIXED = 1 << 16  # Pillow's affine transform counts in 1/65536 pixel
OPAQUE = 128  # an object's pixel is one at least half covered by it
SIDES = (40, 105)  # longer side of an object before rotation, in pixels
AREA_OF_ONE = 76 * 76  # one object for so many pixels of the scene, on average


@dataclass(frozen=True)
class Scene:
    """A picture ``(H, W, 3)`` and its labels ``(H, W)``, both uint8; label 0 is background, then the groups."""

    picture: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def draw_scene(random: Random, glyphs: Glyphs, groups: Sequence[Sequence[int]], side: int) -> Scene:
    """Draws objects of random groups over a random background.

    Args:
        random: Decides everything.
        glyphs: Where the emoji come from.
        groups: Code points to choose from, by class.
        side: Height and width of the scene in pixels, a multiple of 32.
    """
    picture = _background(random, side)
    labels = Image.new("L", (side, side))
    most = 2 * side * side // AREA_OF_ONE
    count = random.randrange(1 + most // 6, 1 + most)
    for _ in range(count):
        index = random.randrange(len(groups))
        shape = _posed(random, glyphs.draw(random.choice(groups[index])))
        left = random.randrange(-shape.width // 3, side - shape.width * 2 // 3)
        top = random.randrange(-shape.height // 3, side - shape.height * 2 // 3)
        _paste(random, picture, labels, shape, (left, top), index + 1)
    return Scene(np.asarray(_as_photographed(random, picture)), np.asarray(labels))


def _background(random: Random, side: int) -> Image.Image:
    """Smooth clouds of two scales around one colour, with a few plain shapes as distraction."""
    coarse = _clouds(random, side, 1 << random.randrange(1, 4))
    fine = _clouds(random, side, 1 << random.randrange(3, 6))
    plain = Image.new("RGB", (side, side), tuple(random.randbytes(3)))
    picture = Image.blend(plain, Image.blend(coarse, fine, 0.25), 0.5)
    draw = ImageDraw.Draw(picture)
    for _ in range(random.randrange(0, 4)):
        x, y = random.randrange(-side // 4, side), random.randrange(-side // 4, side)
        width, height = random.randrange(6, side // 2), random.randrange(6, side // 2)
        kind, color = random.randrange(3), tuple(random.randbytes(3))
        shape = (draw.rectangle, draw.ellipse, draw.line)[kind]  # all three are drawn in whole numbers
        shape((x, y, x + width, y + height), fill=color)
    return picture


def _clouds(random: Random, side: int, cells: int) -> Image.Image:
    small = Image.frombytes("RGB", (cells, cells), random.randbytes(3 * cells * cells))
    return small.resize((side, side), Image.Resampling.BILINEAR)


def _posed(random: Random, glyph: Image.Image) -> Image.Image:
    """Scales, turns, mirrors and recolours an emoji."""
    side = random.randrange(*SIDES)
    degrees = random.randrange(-30, 31)
    mirrored = random.randrange(2)
    cosine, sine = _turn(degrees)
    # A box twice as large as needed, sampled at its nearest pixels and then averaged by fours: smooth and exact.
    step = max(glyph.size) * FIXED // (2 * side)
    span = (abs(cosine) + abs(sine)) * 2 * side // FIXED
    box = span + span % 2
    a, b = cosine * step // FIXED, sine * step // FIXED
    c = glyph.width * FIXED // 2 - (a + b) * box // 2
    f = glyph.height * FIXED // 2 - (a - b) * box // 2
    fixed = (a, b, c, -b, a, f)
    matrix = [value / FIXED for value in fixed]  # exact: divided by a power of two
    if mirrored:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shape = glyph.transform((box, box), Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST).reduce(2)
    return _recolored(random, shape.crop(shape.getbbox()))


@functools.cache
def _turn(degrees: int) -> tuple[int, int]:
    radians = math.radians(degrees)
    return round(math.cos(radians) * FIXED), round(math.sin(radians) * FIXED)


def _recolored(random: Random, shape: Image.Image) -> Image.Image:
    """Changes gain and offset of each colour channel a little."""
    table: list[int] = []
    for _ in range(3):
        gain, offset = random.randrange(224, 289), random.randrange(-12, 13)
        table += [min(255, max(0, value * gain // 256 + offset)) for value in range(256)]
    return shape.point([*table, *range(256)])


def _paste(
    random: Random, picture: Image.Image, labels: Image.Image, shape: Image.Image, place: tuple[int, int], label: int
) -> None:
    alpha = shape.getchannel("A")
    if random.randrange(3) == 0:
        _cast_shadow(random, picture, alpha, place)
    picture.paste(shape.convert("RGB"), place, alpha)
    labels.paste(label, place, alpha.point([255 * (value >= OPAQUE) for value in range(256)]))


def _cast_shadow(random: Random, picture: Image.Image, alpha: Image.Image, place: tuple[int, int]) -> None:
    margin, strength = 8, random.randrange(60, 150)
    shadow = Image.new("L", (alpha.width + 2 * margin, alpha.height + 2 * margin))
    shadow.paste(alpha.point([value * strength // 256 for value in range(256)]), (margin, margin))
    shadow = shadow.filter(ImageFilter.BoxBlur(random.randrange(1, 5)))
    left, top = place[0] - margin + random.randrange(-8, 9), place[1] - margin + random.randrange(2, 11)
    picture.paste((0, 0, 0), (left, top, left + shadow.width, top + shadow.height), shadow)


def _as_photographed(random: Random, picture: Image.Image) -> Image.Image:
    """Light, focus and noise of a camera."""
    gain, offset = random.randrange(208, 305), random.randrange(-20, 21)
    table = [min(255, max(0, (value - 128) * gain // 256 + 128 + offset)) for value in range(256)]
    picture = picture.point(table * 3)
    if random.randrange(4) == 0:
        picture = picture.filter(ImageFilter.BoxBlur(1))
    amplitude = random.randrange(0, 16)
    noise = Image.frombytes("L", picture.size, random.randbytes(picture.width * picture.height))
    noise = noise.point([value * amplitude // 256 for value in range(256)])
    return ImageChops.add(picture, Image.merge("RGB", [noise] * 3), offset=-(amplitude // 2))
