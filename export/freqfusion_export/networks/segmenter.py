# SPDX-License-Identifier: Apache-2.0
"""Semantic segmenters as the exporter sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import onnx_ir as ir
from freqfusion.configs import official
from freqfusion.ham_head import HamHead
from freqfusion_runtime.model_files.classes import ade20k
from freqfusion_runtime.model_files.manifest import Preprocessing, TensorSpec
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.protocol import Form
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
            raise ExportError(f"{type(model).__name__} has no decode_head.conv_seg; it is no semantic segmenter") from e
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

    def image_interface(self) -> ir.passes.PassBase:
        """See ``Form``: label maps come out."""
        return WrapInImageInterfacePass(self.preprocessing, self.num_classes)
