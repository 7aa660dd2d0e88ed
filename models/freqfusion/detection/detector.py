# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN, Mask R-CNN and Panoptic FPN: one network, with or without masks and a semantic head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from freqfusion.detection.boxes import decode_boxes
from freqfusion.detection.pyramid import Pyramid
from freqfusion.detection.resnet import ResNet
from freqfusion.detection.roi_heads import RoIHead
from freqfusion.detection.rpn import RATIOS, RPN_IOU_THRESHOLD, SCALES, RPNHead
from freqfusion.detection.selection import (
    IOU_THRESHOLD,
    PANOPTIC_SCORE_THRESHOLD,
    SCORE_THRESHOLD,
    select_by_class,
    select_over_classes,
)
from freqfusion.detection.semantic_head import SemanticHead
from freqfusion.errors import CheckpointError

_SAMPLER = "neck.alignment.{}.dysampler."


class Detector(nn.Module):
    """Finds objects, draws their masks and labels the rest, in images of one size.

    All sizes of the results are fixed, and nothing in the computation depends on what is found, so that it exports as
    one graph: the best 100 detections are followed by fillers.

    Args:
        depth: Of the ResNet, 50 or 101.
        has_masks: Whether objects get masks.
        num_classes: Classes of things.
        num_stuff: Classes of stuff; None for a network without semantic head. Its boxes are selected otherwise.
        fusion: ``freqfusion``, or ``nearest`` for the twin with a classic pyramid.
        groups: Channel groups of FreqFusion's resampler; 8 in the official ``faster_rcnn_r101``.
        norm: Whether the resampler normalises its inputs; not in the official ``panoptic_fpn_r50``.
        style: Of the ResNet.
        anchor_scales, anchor_ratios, rpn_iou_threshold: Of the proposals, see :class:`RPNHead`.
        score_threshold: Of detections; None for 0.05, with a semantic head 0.6.
        iou_threshold: At which a detection gives way to a better one.
        class_agnostic: Whether it gives way to those of other classes too; None for what the semantic head decides.
        options: Further ones of :class:`FreqFusion` that the weights do not show, such as ``semi_conv``.

    Raises:
        ValueError: For suppression over classes at a threshold under 0.5, where a proposal may have several.

    Source: ``FasterRCNN``, ``MaskRCNN`` and ``PanopticFPN`` of mmdetection 2.28 with the official configurations.
    """

    size_divisor = 64
    """Sides must be multiples of this: the coarsest of the maps fused has stride 64. Images are padded with zeros."""

    def __init__(
        self,
        depth: int = 50,
        has_masks: bool = False,
        num_classes: int = 80,
        num_stuff: int | None = None,
        fusion: str = "freqfusion",
        groups: int = 4,
        norm: bool = True,
        style: str = "pytorch",
        anchor_scales: Sequence[float] = SCALES,
        anchor_ratios: Sequence[float] = RATIOS,
        rpn_iou_threshold: float = RPN_IOU_THRESHOLD,
        score_threshold: float | None = None,
        iou_threshold: float = IOU_THRESHOLD,
        class_agnostic: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        is_panoptic = num_stuff is not None
        official = PANOPTIC_SCORE_THRESHOLD if is_panoptic else SCORE_THRESHOLD
        self.score_threshold = official if score_threshold is None else score_threshold
        self.iou_threshold = iou_threshold
        self.class_agnostic = is_panoptic if class_agnostic is None else class_agnostic
        if self.class_agnostic and self.score_threshold < 0.5:
            raise ValueError(
                f"Detector: class_agnostic needs a score_threshold of at least 0.5, got {self.score_threshold}; "
                "below it a proposal may have several classes"
            )
        self.num_classes = num_classes
        self.num_stuff = num_stuff
        self.has_masks = has_masks
        self.backbone = ResNet(depth, style)
        self.neck = Pyramid(fusion, groups, norm, **options)
        self.rpn_head = RPNHead(anchor_scales, anchor_ratios, rpn_iou_threshold)
        self.roi_head = RoIHead(num_classes, has_masks)
        if num_stuff is not None:
            self.semantic_head = SemanticHead(num_stuff + 1)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` returns, in its order."""
        names = ["num", "boxes", "scores", "labels"]
        return (*names, *(["masks"] if self.has_masks else []), *(["semantic"] if self.num_stuff is not None else []))

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """Detects.

        Args:
            images: ``(N, 3, H, W)`` normalised RGB, padded with zeros below and at the right to multiples of 64.
            image_sizes: ``(N, 2)`` int64: height and width without the padding; boxes are clipped to these.

        Returns:
            ``num`` ``(N,)`` int64, detections in each image;
            ``boxes`` ``(N, 100, 4)``: x1, y1, x2, y2 in pixels;
            ``scores`` ``(N, 100)``, descending; ``labels`` ``(N, 100)`` int64; from ``num`` on 0, 0 and -1;
            with masks, ``masks`` ``(N, 100, 28, 28)``: logits of the label in the box;
            with a semantic head, ``semantic`` ``(N, num_stuff + 1, H/4, W/4)``: logits, the last class any thing.

        Raises:
            ValueError: If a side is not a multiple of 64.
        """
        height, width = images.shape[2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(
                f"Detector: sides must be multiples of {self.size_divisor}, got {height} x {width}; "
                "append zeros below and at the right"
            )
        maps = self.neck(self.backbone(images))
        proposals, objectness = self.rpn_head(maps, image_sizes)
        logits, deltas = self.roi_head.bbox_head(maps, proposals)
        scores = logits.softmax(dim=-1)[..., :-1] * (objectness > 0)[..., None]
        boxes = decode_boxes(proposals[:, :, None], deltas, image_sizes)
        select = select_over_classes if self.class_agnostic else select_by_class
        num, boxes, scores, labels = select(boxes, scores, self.score_threshold, self.iou_threshold)
        results = [num, boxes, scores, labels]
        if self.has_masks:
            results.append(self.roi_head.mask_head(maps, boxes, labels))
        if self.num_stuff is not None:
            results.append(self.semantic_head(maps))
        return tuple(results)


def arguments_of(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Reads from a checkpoint what the official configurations differ in, for :class:`Detector`.

    Returns:
        ``num_classes``; ``groups`` and ``norm`` of the resamplers; ``num_stuff`` where there is a semantic head.

    Raises:
        CheckpointError: If the resamplers' shapes are those of no group count, or they differ in it or in ``norm``.
    """
    arguments: dict[str, Any] = {"num_classes": state_dict["roi_head.bbox_head.fc_cls.weight"].shape[0] - 1}
    found = {_sampler_form(state_dict, level) for level in range(4)} - {None}
    if len(found) > 1:
        raise CheckpointError(
            f"the four resamplers of the pyramid must have equal groups and norm, got {sorted(map(str, found))}; "
            "the official configurations have 4 or 8 groups with norm, or 4 without"
        )
    for form in found:
        arguments |= dict(zip(("groups", "norm"), form or (), strict=True))
    if (semantic := state_dict.get("semantic_head.conv_logits.weight")) is not None:
        arguments["num_stuff"] = semantic.shape[0] - 1
    return arguments


def _sampler_form(state_dict: Mapping[str, Tensor], level: int) -> tuple[int, bool] | None:
    """Reads groups and norm of one resampler, None if it is not there."""
    prefix = _SAMPLER.format(level)
    offset = state_dict.get(f"{prefix}offset.weight")
    if offset is None:
        return None
    groups, rest = divmod(offset.shape[0], 8)
    if rest or groups < 1 or 64 % groups:
        raise CheckpointError(
            f"{prefix}offset.weight must have 8 channels for each of G groups, G a divisor of 64, got "
            f"{offset.shape[0]} channels; the official configurations have 32 (4 groups) or 64 (8 groups)"
        )
    return groups, f"{prefix}norm_hr.weight" in state_dict
