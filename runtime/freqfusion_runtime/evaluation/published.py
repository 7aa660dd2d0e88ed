# SPDX-License-Identifier: Apache-2.0
"""The accuracy that the paper reports for its checkpoints, to be printed beside a measured one.

Source: tables of the official README (Linwei-Chen/FreqFusion): SegNeXt and Mask2Former on ADE20K's validation set, the
others on COCO's val2017. ``released`` is what it states for the checkpoint offered for download, where that differs.
"""

from __future__ import annotations

from dataclasses import dataclass


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
