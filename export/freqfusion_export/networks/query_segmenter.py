# SPDX-License-Identifier: Apache-2.0
"""Segmenters by queries, which Mask2Former is, as the exporter sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from freqfusion.configs import official
from freqfusion.mask2former import Mask2Former
from freqfusion_runtime.model_files.classes import ade20k
from freqfusion_runtime.model_files.manifest import Preprocessing, TensorSpec
from freqfusion_runtime.results.labels import CLASS_LOGITS, MASK_LOGITS

from freqfusion_export.networks.protocol import Form
from freqfusion_export.passes.wrap_queries_in_image_interface import WrapQueriesInImageInterfacePass

OUTPUTS = (
    TensorSpec(MASK_LOGITS, "float32", ("batch", "queries", "height/4", "width/4")),
    TensorSpec(CLASS_LOGITS, "float32", ("batch", "queries", "classes")),
)
_REFUSED = {
    precision: f"{precision} is not offered for Mask2Former: it is written for convolutions, which do 10 % of "
    "Swin-B's multiplications at 640 x 640, nearly all of them in its head, which must stay in fp32. "
    "Export it as fp16 or bf16."
    for precision in ("int8", "fp8")
}


@dataclass(frozen=True)
class QuerySegmenterForm(Form):
    """A network whose queries are each of a class and have a mask at stride 4."""

    comparison = "queries"

    @classmethod
    def of(cls, model: Mask2Former) -> QuerySegmenterForm:
        """Describes a Mask2Former."""
        known = model.num_classes == len(ade20k.CLASSES)
        return cls(
            "semantic_segmentation",
            model.num_classes,
            None,
            ade20k.CLASSES if known else (),
            ade20k.PALETTE if known else (),
            Preprocessing(**official.MASK2FORMER),
            OUTPUTS,
        )

    @property
    def refused(self) -> Mapping[str, str]:
        """See ``Form``."""
        return _REFUSED

    def image_interface(self) -> ir.passes.PassBase:
        """See ``Form``: label maps come out."""
        return WrapQueriesInImageInterfacePass(self.preprocessing, self.num_classes)
