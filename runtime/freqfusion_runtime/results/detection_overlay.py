# SPDX-License-Identifier: Apache-2.0
"""Draws photos with the objects in them: boxes, names, scores, masks, stuff."""

from __future__ import annotations

import colorsys
import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from freqfusion_runtime.results.detections import Detections, InstanceSegmentation, PanopticSegmentation
from freqfusion_runtime.results.overlay import beside_legend, blend, enlarged, enlargement, font_size, outline_width

if TYPE_CHECKING:
    from freqfusion_runtime.model_files.classes.class_table import Color

Rectangle: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom

_OPACITY = 0.5
_MIN_NAMED_SHARE = 0.004  # of the picture; a smaller segment's name would hide it
_DARK, _LIGHT = (20, 22, 26), (255, 255, 255)


def draw_detections(found: Detections) -> Image.Image:
    """Draws objects, the best score on top; see :meth:`freqfusion_runtime.Detections.overlay`."""
    factor = enlargement(*found.photo.shape[:2])
    canvas = enlarged(found.photo, factor).copy()
    colors = instance_colors(found.labels.tolist(), found.palette)
    line = max(2, 2 * outline_width(*canvas.shape[:2]))
    if isinstance(found, InstanceSegmentation):
        for index in reversed(range(len(found))):
            mask = found.masks[index]
            bits = mask.bits.repeat(factor, axis=0).repeat(factor, axis=1)
            _paint(canvas, bits, mask.top * factor, mask.left * factor, colors[index], line)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(font_size(*canvas.shape[:2]))
    boxes = [_rectangle(box, factor, picture.size) for box in found.boxes.tolist()]
    names = [found.classes[label] for label in found.labels.tolist()]
    tags = [f"{name} {score:.2f}" for name, score in zip(names, found.scores.tolist(), strict=True)]
    places = _places(boxes, [_tag_size(tag, font) for tag in tags], picture.size)
    for box, color in reversed(list(zip(boxes, colors, strict=True))):
        draw.rounded_rectangle(box, radius=2 * line, outline=color, width=line)
    for tag, place, color in reversed(list(zip(tags, places, colors, strict=True))):
        draw.rounded_rectangle(place, radius=line, fill=color)
        middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
        draw.text(middle, tag, fill=_ink_on(color), font=font, anchor="mm")
    return picture


def draw_panoptic(found: PanopticSegmentation) -> Image.Image:
    """Draws segments, their names and a legend; see :meth:`freqfusion_runtime.PanopticSegmentation.overlay`."""
    factor = enlargement(*found.ids.shape)
    values, places = np.unique(found.ids, return_inverse=True)
    index = places.reshape(found.ids.shape)
    colors = dict(zip((s.id for s in found.segments), _segment_colors(found), strict=True))
    # Void is shown as the photo, darker.
    palette = np.array([colors.get(value, (0, 0, 0)) for value in values.tolist()], np.uint8)
    labels = index.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = Image.fromarray(blend(enlarged(found.photo, factor), labels, palette, _OPACITY))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(font_size(*labels.shape))
    for segment in found.segments:
        if segment.area < _MIN_NAMED_SHARE * found.ids.size:
            continue
        x, y, room = _inner_place(found.ids == segment.id)
        name = found.classes[segment.label]
        if font.getlength(name) > 1.6 * room * factor:
            continue
        halo = max(1, outline_width(*labels.shape))
        draw.text((x * factor, y * factor), name, _LIGHT, font, "mm", stroke_width=halo, stroke_fill=_DARK)
    if not found.segments:
        return picture
    shown = {segment.label: colors[segment.id] for segment in reversed(found.segments)}  # the first of a class
    return beside_legend(picture, [replace(share, color=shown[share.label]) for share in found.shares()])


def instance_colors(labels: list[int], palette: tuple[Color, ...]) -> list[Color]:
    """Colours objects by class, and the objects of one class apart from each other.

    The first of a class has the class's colour; the next ones turn its hue and change its lightness.
    """
    seen: defaultdict[int, int] = defaultdict(int)
    colors = []
    for label in labels:
        colors.append(_variation(palette[label], seen[label]))
        seen[label] += 1
    return colors


def _variation(color: Color, step: int) -> Color:
    hue, lightness, saturation = colorsys.rgb_to_hls(*(level / 255 for level in color))
    if step:
        hue = (hue + 0.381966 * step) % 1.0  # the golden angle: successive hues stay apart
        saturation = max(saturation, 0.55)
    # Very dark and very light colours vanish in photos.
    lightness = min(max(lightness, 0.42), 0.68)
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _segment_colors(found: PanopticSegmentation) -> list[Color]:
    things = [segment.label for segment in found.segments if segment.is_thing]
    varied = iter(instance_colors(things, found.palette))
    return [next(varied) if segment.is_thing else found.palette[segment.label] for segment in found.segments]


def _paint(canvas: NDArray[np.uint8], bits: NDArray[np.bool_], top: int, left: int, color: Color, line: int) -> None:
    """Mixes a colour into the mask's pixels and draws its border, in place."""
    if bits.size == 0:
        return
    part = canvas[top : top + bits.shape[0], left : left + bits.shape[1]]
    mixed = part[bits] * np.float32(1 - _OPACITY) + np.array(color, np.float32) * np.float32(_OPACITY)
    part[bits] = np.rint(mixed)
    inner = np.pad(bits, 1)
    for _ in range(line):
        shrunk = inner.copy()
        shrunk[1:] &= inner[:-1]
        shrunk[:-1] &= inner[1:]
        shrunk[:, 1:] &= inner[:, :-1]
        shrunk[:, :-1] &= inner[:, 1:]
        inner = shrunk
    part[bits & ~inner[1:-1, 1:-1]] = color


def _rectangle(box: list[float], factor: int, size: tuple[int, int]) -> Rectangle:
    """A box in whole pixels of the canvas, at least one wide."""
    left, top = (min(max(0, math.floor(side * factor)), limit - 1) for side, limit in zip(box[:2], size, strict=True))
    right, bottom = (min(math.ceil(side * factor), limit) - 1 for side, limit in zip(box[2:], size, strict=True))
    return left, top, max(left, right), max(top, bottom)


def _tag_size(tag: str, font: Any) -> tuple[int, int]:
    ascent, descent = font.getmetrics()
    margin = max(3, (ascent + descent) // 5)
    return math.ceil(font.getlength(tag)) + 2 * margin, ascent + descent + margin // 2


def _places(boxes: list[Rectangle], sizes: list[tuple[int, int]], canvas: tuple[int, int]) -> list[Rectangle]:
    """Finds each name a place: above its box, inside from the top down, below; the first free one, if there is."""
    taken: list[Rectangle] = []
    for (left, top, _, bottom), (width, height) in zip(boxes, sizes, strict=True):
        x = min(max(0, left), max(0, canvas[0] - width))
        choices = [
            (x, y, x + width, y + height)
            for y in (top - height, *range(top + 2, bottom - height + 1, height + 2), bottom)
            if 0 <= y <= canvas[1] - height
        ] or [(x, max(0, canvas[1] - height), x + width, canvas[1])]
        free = [choice for choice in choices if not any(_overlap(choice, other) for other in taken)]
        taken.append((free or choices)[0])
    return taken


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ink_on(color: Color) -> Color:
    red, green, blue = color
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else _LIGHT


def _inner_place(inside: NDArray[np.bool_]) -> tuple[float, float, int]:
    """A point well inside a segment, the middle of the longest run of its middle row, and that run's length.

    Returns:
        x, y, width in pixels.
    """
    counts = inside.sum(axis=1)
    row = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    change = np.diff(np.concatenate([[0], inside[row].astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    longest = int(np.argmax(ends - starts))
    width = int(ends[longest] - starts[longest])
    return float(starts[longest]) + width / 2, row + 0.5, width
