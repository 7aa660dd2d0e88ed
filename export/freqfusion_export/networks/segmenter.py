# SPDX-License-Identifier: Apache-2.0
"""Semantic segmenters as the exporter sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import onnx_ir as ir
import torch
from freqfusion.configs import official
from freqfusion.ham_head import HamHead
from freqfusion_runtime.model_files.classes import ade20k
from freqfusion_runtime.model_files.manifest import Preprocessing, TensorSpec
from torch import Tensor, nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.protocol import Form
from freqfusion_export.networks.user_code import check_module, place_of
from freqfusion_export.passes.wrap_in_image_interface import WrapInImageInterfacePass

_LOGITS = TensorSpec("logits", "float32", ("batch", "classes", "height/8", "width/8"))


@dataclass(frozen=True)
class SegmenterForm(Form):
    """A network that scores every class at stride 8; offered in all precisions."""

    comparison = "labels"

    @classmethod
    def of(cls, model: nn.Module) -> SegmenterForm:
        """Describes a segmenter.

        Raises:
            ExportError: If it has no head to read the number of classes from.
        """
        try:
            count = cast(HamHead, model.get_submodule("decode_head")).num_labels
        except AttributeError as e:
            raise ExportError(
                f"{type(model).__name__} has no decode_head.conv_seg; it is no semantic segmenter of ours. "
                "For a network of one's own give inputs=, or task= and classes="
            ) from e
        known = count == len(ade20k.CLASSES)
        return cls(
            "semantic_segmentation",
            count,
            None,
            ade20k.CLASSES if known else (),
            ade20k.PALETTE if known else (),
            Preprocessing(**official.SEGMENTER),
            (_LOGITS,),
        )

    @classmethod
    def of_own(
        cls,
        network: nn.Module,
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]],
        preprocessing: Preprocessing,
    ) -> SegmenterForm:
        """Describes a segmenter of the user's own, whose scores may be of any size.

        Raises:
            ExportError: If it does not score these classes.
        """
        check_module(network)
        step = preprocessing.size_divisor
        examples = torch.zeros(1, 3, 3 * step, 4 * step)
        kind = type(network).__name__
        try:
            with torch.inference_mode():
                scores = network(examples)
        except Exception as e:
            raise ExportError(
                f"{kind} itself fails on an image 1x3x{3 * step}x{4 * step}{place_of(e)}: {str(e).splitlines()[0]} "
                "Give the number that its images' sides are multiples of as size_divisor of the preprocessing"
            ) from e
        if not isinstance(scores, Tensor) or scores.ndim != 4:
            found = f"a tensor of {scores.ndim} sides" if isinstance(scores, Tensor) else type(scores).__name__
            raise ExportError(
                f"{kind} puts out {found}, and a semantic segmenter one tensor of class scores (batch, classes, "
                "height, width); return that alone in evaluation mode, or export it without task="
            )
        if scores.shape[1] != len(classes):
            raise ExportError(
                f"{kind} scores {scores.shape[1]} classes, and {len(classes)} are named; name each, in the scores' "
                "order"
            )
        sides = (f"{side} of scores" for side in ("height", "width"))
        scored = TensorSpec("logits", "float32", ("batch", "classes", *sides))
        count = len(classes)
        return cls(
            "semantic_segmentation",
            count,
            None,
            tuple(classes),
            tuple(palette),
            preprocessing,
            (scored,),
            is_own=True,
        )

    def image_interface(self) -> ir.passes.PassBase:
        """See ``Form``: label maps come out."""
        return WrapInImageInterfacePass(self.preprocessing, self.num_classes)
