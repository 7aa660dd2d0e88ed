# SPDX-License-Identifier: Apache-2.0
"""Names and colours of a model's classes: the checkpoint's own, else those of the benchmark it was made for."""

from __future__ import annotations

from typing import TypeAlias

from freqfusion_runtime.files import printable
from freqfusion_runtime.model_files.classes import ade20k, coco
from freqfusion_runtime.model_files.manifest import Manifest

Color: TypeAlias = tuple[int, int, int]  # red, green, blue


def class_names(manifest: Manifest) -> tuple[str, ...]:
    """Names the classes: the checkpoint's own names, else the benchmark's, else their numbers; each is one line."""
    if manifest.classes:
        return tuple(printable(name.strip()) for name in manifest.classes)
    names, _ = _benchmark(manifest)
    return names or tuple(f"class {label}" for label in range(manifest.num_classes))


def class_colors(manifest: Manifest) -> tuple[Color, ...]:
    """Gives every class a colour: the checkpoint's own, else the benchmark's, else well-spread ones."""
    if manifest.palette:
        return manifest.palette
    _, colors = _benchmark(manifest)
    return colors or tuple(_spread_color(label) for label in range(manifest.num_classes))


def _benchmark(manifest: Manifest) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Names and colours of ADE20K or COCO where task and number of classes are theirs, else nothing."""
    if manifest.task == "semantic_segmentation":
        fits = manifest.num_classes == len(ade20k.CLASSES)
        return (ade20k.CLASSES, ade20k.PALETTE) if fits else ((), ())
    expected = len(coco.CLASSES) if manifest.task == "panoptic_segmentation" else coco.NUM_THINGS
    if manifest.num_classes != expected:
        return (), ()
    return coco.CLASSES[:expected], coco.PALETTE[:expected]


def _spread_color(label: int) -> Color:
    """Pascal VOC's rule: the bits of ``label + 1`` are dealt to red, green and blue, the lowest to the highest bit."""
    levels = [0, 0, 0]
    for bit in range(24):
        levels[bit % 3] |= ((label + 1) >> bit & 1) << (7 - bit // 3)
    return levels[0], levels[1], levels[2]
