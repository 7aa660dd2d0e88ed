# SPDX-License-Identifier: Apache-2.0
"""Draws a photo under its label colours, with outlines and a legend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from freqfusion_runtime.model_files.classes.class_table import Color
    from freqfusion_runtime.pictures.reading import Picture
    from freqfusion_runtime.results.segmentation import ClassShare, Segmentation

_MIN_SIDE = 480  # a photo whose longer side is less is enlarged, so that outlines and names stay readable
_MAX_ENLARGEMENT = 32
BACKGROUND, INK, _FAINT = (24, 26, 30), (236, 238, 241), (150, 155, 163)
_OUTLINE, _OUTLINE_OPACITY = 255, 0.75


def draw_overlay(segmentation: Segmentation, opacity: float, legend: bool) -> Image.Image:
    """Draws a segmentation; see :meth:`freqfusion_runtime.Segmentation.overlay`."""
    factor = enlargement(*segmentation.labels.shape)
    labels = segmentation.labels.repeat(factor, axis=0).repeat(factor, axis=1)
    photo = enlarged(segmentation.photo, factor)
    picture = Image.fromarray(blend(photo, labels, np.array(segmentation.palette, np.uint8), opacity))
    if not legend:
        return picture
    return beside_legend(picture, segmentation.shares())


def beside_legend(picture: Image.Image, shares: list[ClassShare]) -> Image.Image:
    """Puts the panel that names classes and shares at the right of a picture."""
    width, height = picture.size
    panel = draw_legend(shares, height, font_size(height, width))
    canvas = Image.new("RGB", (width + panel.width, max(height, panel.height)), BACKGROUND)
    canvas.paste(picture, (0, (canvas.height - height) // 2))
    canvas.paste(panel, (width, 0))
    return canvas


def enlargement(height: int, width: int) -> int:
    """By how much a small photo is enlarged."""
    return min(_MAX_ENLARGEMENT, -(-_MIN_SIDE // max(height, width)))


def font_size(height: int, width: int) -> int:
    """Of names on a picture, in its pixels."""
    return max(14, round(math.sqrt(height * width) / 42))


def enlarged(photo: Picture, factor: int) -> Picture:
    """Enlarges a photo smoothly."""
    if factor == 1:
        return photo
    size = (photo.shape[1] * factor, photo.shape[0] * factor)
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))


def blend(photo: Picture, labels: NDArray[Any], palette: NDArray[np.uint8], opacity: float) -> Picture:
    """Mixes a photo with its labels' colours and outlines where labels meet."""
    height, width = labels.shape
    thickness = outline_width(height, width)
    result = np.empty_like(photo)
    outlines = outlines_of(labels, thickness)
    # In strips, so that a large photo does not need four times its size in floats.
    for top in range(0, height, 256):
        rows = slice(top, top + 256)
        mixed = photo[rows].astype(np.float32) * (1.0 - opacity)
        mixed += palette[labels[rows]] * np.float32(opacity)
        edge = outlines[rows]
        mixed[edge] += (_OUTLINE - mixed[edge]) * _OUTLINE_OPACITY
        result[rows] = np.rint(mixed)
    return result


def outline_width(height: int, width: int) -> int:
    """Of a line between classes, in the picture's pixels."""
    return max(1, round(math.sqrt(height * width) / 700))


def outlines_of(labels: NDArray[Any], thickness: int) -> NDArray[np.bool_]:
    """Marks pixels within ``thickness`` above or left of another class."""
    edges = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        edges[:-step] |= labels[:-step] != labels[step:]
        edges[:, :-step] |= labels[:, :-step] != labels[:, step:]
    return edges


def draw_legend(shares: list[ClassShare], height: int, size: int) -> Image.Image:
    """Draws the panel: one line a class, the largest first, and one for those that find no room."""
    font = ImageFont.load_default(size)
    line, gap = round(size * 1.65), round(size * 0.8)
    room = max(3, (height - 2 * gap) // line)
    shown = shares if len(shares) <= room else shares[: room - 1]
    rows: list[tuple[Color | None, str, float]] = [(share.color, share.name, share.share) for share in shown]
    if len(shown) < len(shares):
        rest = sum(share.share for share in shares[len(shown) :])
        rows.append((None, f"{len(shares) - len(shown)} more", rest))
    names = [_shorten(name, font, 11 * size) for _, name, _ in rows]
    name_width = max(round(font.getlength(name)) for name in names)
    share_width = round(font.getlength("100.0 %"))
    width = gap + size + gap // 2 + name_width + gap + share_width + gap
    panel = Image.new("RGB", (width, max(height, 2 * gap + line * len(rows))), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    for index, ((color, _, share), name) in enumerate(zip(rows, names, strict=True)):
        middle = gap + line * index + line // 2
        if color is not None:
            box = (gap, middle - size // 2, gap + size, middle - size // 2 + size)
            draw.rounded_rectangle(box, radius=max(2, size // 5), fill=color, outline=_FAINT)
        ink = INK if color is not None else _FAINT
        draw.text((gap + size + gap // 2, middle), name, fill=ink, font=font, anchor="lm")
        draw.text((width - gap, middle), _percent(share), fill=_FAINT, font=font, anchor="rm")
    return panel


def _percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share * 100:.1f} %"


def _shorten(name: str, font: Any, limit: int) -> str:
    if font.getlength(name) <= limit:
        return name
    while name and font.getlength(name + "...") > limit:
        name = name[:-1]
    return name.rstrip() + "..."
