# SPDX-License-Identifier: Apache-2.0
"""The accuracy that the paper reports for its checkpoints, to be printed beside a measured one.

Source: tables of the official README (Linwei-Chen/FreqFusion): SegNeXt and Mask2Former on ADE20K's validation set, the
others on COCO's val2017. ``released`` is what it states for the checkpoint offered for download, where that differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from freqfusion_runtime.model_files.classes import ade20k, coco
from freqfusion_runtime.results.coco_format import Identity

Benchmark = Literal["ADE20K validation", "COCO val2017"]


@dataclass(frozen=True)
class Published:
    """One number of the paper, in percent."""

    paper: float
    released: float | None = None


PUBLISHED: dict[str, dict[str, Published]] = {
    "segnext_t": {"mIoU": Published(43.5, 43.7)},
    "segnext_t_bilinear": {"mIoU": Published(41.1)},  # SegNeXt, NeurIPS 2022: the same without FreqFusion
    "mask2former_swin_b": {"mIoU": Published(55.3, 55.7)},
    "mask2former_swin_l": {"mIoU": Published(56.8, 57.0)},
    "faster_rcnn_r50": {"box AP": Published(39.4, 39.5)},
    "faster_rcnn_r101": {"box AP": Published(41.0, 41.1)},
    "mask_rcnn_r50": {"box AP": Published(40.0), "mask AP": Published(36.0)},
    "mask_rcnn_r101": {"box AP": Published(41.6), "mask AP": Published(37.4, 37.3)},
    "panoptic_fpn_r50": {
        "PQ": Published(42.7),
        "PQ things": Published(49.3),
        "PQ stuff": Published(32.7),
        "SQ": Published(79.0),
        "RQ": Published(51.9),
    },
    "panoptic_fpn_r101": {
        "PQ": Published(44.0, 44.1),
        "PQ things": Published(50.8),
        "PQ stuff": Published(33.7),
        "SQ": Published(79.4),
        "RQ": Published(53.4),
    },
}


def published_for(
    model: str, weights: str, classes: Sequence[str], benchmark: Benchmark | None
) -> Mapping[str, Published]:
    """The paper's numbers for a model, by the names of scores; nothing unless they are about the same thing.

    Args:
        model: The model's name.
        weights: ``checkpoint`` or ``random``.
        classes: The model's own class names.
        benchmark: What was scored, if it is the whole of a benchmark.
    """
    numbers = PUBLISHED.get(model, {})
    if "mIoU" in numbers:
        own, known = "ADE20K validation", ade20k.CLASSES
    else:
        own, known = "COCO val2017", coco.CLASSES if "PQ" in numbers else coco.CLASSES[: coco.NUM_THINGS]
    is_same = weights == "checkpoint" and benchmark == own and tuple(name.strip() for name in classes) == known
    return numbers if is_same else {}


def is_ade20k_validation(stems: Sequence[str]) -> bool:
    """Whether these are the names of ADE20K's 2000 validation pictures, all of them."""
    return sorted(stems) == [f"ADE_val_{number:08}" for number in range(1, 2001)]


def is_coco_val2017(stems: Sequence[str], categories: Mapping[Identity, str]) -> bool:
    """Whether these are 5000 names as COCO's pictures have, and COCO's own categories, of things or of all.

    Args:
        stems: File names of the pictures scored, without suffix.
        categories: Names by id, as in the annotation file.
    """
    own = {identity: name.strip() for identity, name in zip(coco.CATEGORY_IDS, coco.CLASSES, strict=True)}
    things = dict(list(own.items())[: coco.NUM_THINGS])
    is_named_so = len(set(stems)) == len(stems) == 5000 and all(len(stem) == 12 and stem.isdigit() for stem in stems)
    return is_named_so and {key: name.strip() for key, name in categories.items()} in (things, own)
