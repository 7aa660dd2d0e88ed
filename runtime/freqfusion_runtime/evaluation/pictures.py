# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation: the confusion matrix, and two models side by side where they differ most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from freqfusion_runtime.evaluation.counts import IGNORED

_PAPER, _INK, _FAINT = (255, 255, 255), (30, 33, 38), (140, 145, 152)
_FULL = np.array([17, 84, 150])  # a cell with all of its row
_MOST_NUMBERED = 40  # with more classes the cells are too small for numbers and names


def draw_confusion(confusion: NDArray[np.int64], classes: Sequence[str]) -> Image.Image:
    """Draws a confusion matrix, each row (true class) as shares of its pixels."""
    count = len(classes)
    is_numbered = count <= _MOST_NUMBERED
    cell = 46 if is_numbered else max(4, 900 // count)
    font = ImageFont.load_default(13)
    margin = 16 + max(round(font.getlength(name)) for name in classes) if is_numbered else 30
    top = margin if is_numbered else 30
    canvas = Image.new("RGB", (margin + cell * count + 16, top + cell * count + 34), _PAPER)
    draw = ImageDraw.Draw(canvas)
    totals = confusion.sum(axis=1)
    for row in range(count):
        for column in range(count):
            share = confusion[row, column] / totals[row] if totals[row] else 0.0
            color = tuple(np.rint(255 + (_FULL - 255) * share).astype(int).tolist())
            x, y = margin + column * cell, top + row * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=color)
            if is_numbered and share >= 0.005:
                ink = _PAPER if share > 0.5 else _INK
                draw.text(
                    (x + cell // 2 - 1, y + cell // 2 - 1), f"{share * 100:.0f}", fill=ink, font=font, anchor="mm"
                )
    if is_numbered:
        for index, name in enumerate(classes):
            middle = index * cell + cell // 2
            draw.text((margin - 8, top + middle), name, fill=_INK, font=font, anchor="rm")
            _write_upwards(canvas, name, (margin + middle, top - 8), font)
    caption = "rows: true class, columns: found class, % of the true class's pixels"
    draw.text((16, canvas.height - 12), caption, fill=_FAINT, font=font, anchor="ls")
    return canvas


def draw_side_by_side(
    photo: NDArray[np.uint8],
    truth: NDArray[Any],
    found: Sequence[NDArray[Any]],
    titles: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> Image.Image:
    """Draws picture, truth, two label maps and where these differ (white; black where they agree), each titled."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    maps = [colors[np.minimum(labels, IGNORED)] for labels in (truth, *found)]
    differs = np.repeat((found[0] != found[1])[:, :, None] * np.uint8(255), 3, axis=2)
    height, width = truth.shape
    factor = max(1, -(-256 // max(height, width)))
    gap, line = 8, 24
    font = ImageFont.load_default(14)
    panels = [photo, *maps, differs]
    names = ["picture", "truth", *titles, "differences"]
    canvas = Image.new("RGB", ((width * factor + gap) * len(panels) + gap, height * factor + line + gap), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (panel, name) in enumerate(zip(panels, names, strict=True)):
        x = gap + index * (width * factor + gap)
        draw.text((x, line // 2), name, fill=_INK, font=font, anchor="lm")
        canvas.paste(Image.fromarray(panel.repeat(factor, axis=0).repeat(factor, axis=1)), (x, line))
    return canvas


def _write_upwards(canvas: Image.Image, text: str, foot: tuple[int, int], font: Any) -> None:
    length = round(font.getlength(text)) + 2
    strip = Image.new("RGB", (length, 20), _PAPER)
    ImageDraw.Draw(strip).text((0, 10), text, fill=_INK, font=font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    canvas.paste(turned, (foot[0] - 10, foot[1] - length))
