# SPDX-License-Identifier: Apache-2.0
"""Shows which objects, masks and segments two answers about one picture do not share."""

from __future__ import annotations

from typing import Any

import numpy as np
from freqfusion_runtime.agreement.object_agreement import ObjectAgreement
from freqfusion_runtime.results.detections import Detections, InstanceSegmentation, PanopticSegmentation
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from freqfusion_export.parity.difference_picture import draw_differences

SHARED, ONLY_ACTUAL, ONLY_EXPECTED = (150, 165, 155), (255, 32, 64), (32, 96, 255)


def draw_object_differences(
    actual: Detections | PanopticSegmentation, expected: Detections | PanopticSegmentation, objects: ObjectAgreement
) -> Image.Image:
    """Draws both answers' boxes on the photo in pale grey: shared ones grey, those of one answer red or blue.

    Pixels that differ between the masks of a pair, or between the panoptic maps, are red.

    Args:
        actual: The file's answer.
        expected: PyTorch's answer.
        objects: Which of their objects are the same.
    """
    if isinstance(actual, PanopticSegmentation) and isinstance(expected, PanopticSegmentation):
        maps = _without_numbers(actual, objects, 0), _without_numbers(expected, objects, 1)
        picture = draw_differences(actual.photo, *maps)
        return _with_boxes(picture, actual.instances, expected.instances, objects)
    assert isinstance(actual, Detections)
    assert isinstance(expected, Detections)
    differ = np.zeros(actual.photo.shape[:2], bool)
    if isinstance(actual, InstanceSegmentation) and isinstance(expected, InstanceSegmentation):
        for first, second in objects.pairs:
            differ |= actual.masks[first].dense() ^ expected.masks[second].dense()
    picture = draw_differences(actual.photo, differ, np.zeros_like(differ))
    return _with_boxes(picture, actual, expected, objects)


def _without_numbers(found: PanopticSegmentation, objects: ObjectAgreement, side: int) -> NDArray[Any]:
    """A map in which a pair's instances have one value in both answers: they may be numbered differently."""
    partner = {pair[side]: place for place, pair in enumerate(objects.pairs)}
    values = found.ids.copy()
    for segment in found.segments:
        if segment.instance is not None:
            place = partner.get(segment.instance, -1 - segment.instance - side * 1000)
            values[found.ids == segment.id] = 10_000 + place
    return values


def _with_boxes(
    picture: Image.Image, actual: Detections, expected: Detections, objects: ObjectAgreement
) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12, min(picture.size) // 40))
    line = max(1, min(picture.size) // 300)
    for answer, side, color in ((actual, 0, ONLY_ACTUAL), (expected, 1, ONLY_EXPECTED)):
        paired = {pair[side] for pair in objects.pairs}
        for index in sorted(range(len(answer)), key=lambda place: place not in paired):  # those of one answer on top
            left, top, right, bottom = answer.boxes[index].tolist()
            ink = SHARED if index in paired else color
            draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=ink, width=line)
            if index not in paired:
                name = answer.classes[int(answer.labels[index])]
                draw.text((left + line, top), f"{name} {answer.scores[index]:.2f}", fill=color, font=font)
    return picture
