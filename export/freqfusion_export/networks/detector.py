# SPDX-License-Identifier: Apache-2.0
"""Detectors, instance and panoptic segmenters as the exporter sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from freqfusion.configs import official
from freqfusion.detection import Detector
from freqfusion_runtime.model_files.classes import coco
from freqfusion_runtime.model_files.manifest import Preprocessing, Task, TensorSpec
from torch import Tensor

from freqfusion_export.networks.protocol import IMAGES, Form
from freqfusion_export.passes.wrap_detector_in_image_interface import WrapDetectorInImageInterfacePass

_PREPROCESSING = Preprocessing(**official.DETECTOR)
_IMAGE_SIZES = TensorSpec("image_sizes", "int64", ("batch", 2))
_SLOTS = ("batch", 100)
_OUTPUTS = {
    spec.name: spec
    for spec in (
        TensorSpec("num", "int64", ("batch",)),
        TensorSpec("boxes", "float32", (*_SLOTS, 4)),
        TensorSpec("scores", "float32", _SLOTS),
        TensorSpec("labels", "int64", _SLOTS),
        TensorSpec("masks", "float32", (*_SLOTS, 28, 28)),
        TensorSpec("semantic", "float32", ("batch", "classes", "height/4", "width/4")),
    )
}
_NO_MEASURE = "layers are weighed by the labels they lose, and boxes have no such measure yet"
_REFUSED = {
    "bf16": "with 8 bits in a number, half of the boxes move by more than a tenth of their size",
    "int8": _NO_MEASURE,
    "fp8": _NO_MEASURE,
}


@dataclass(frozen=True)
class DetectorForm(Form):
    """A network that finds objects in images of a known part of the input, the rest of which is padding."""

    inputs: tuple[TensorSpec, ...] = (IMAGES, _IMAGE_SIZES)

    comparison = "detections"

    @classmethod
    def of(cls, model: Detector) -> DetectorForm:
        """Describes a detector."""
        things, stuff = model.num_classes, model.num_stuff
        if stuff is not None:
            known = (things, stuff) == (coco.NUM_THINGS, len(coco.CLASSES) - coco.NUM_THINGS)
            task: Task = "panoptic_segmentation"
        else:
            known = things == coco.NUM_THINGS
            task = "instance_segmentation" if model.has_masks else "detection"
        count = things + (stuff or 0)
        return cls(
            task,
            count,
            None if stuff is None else things,
            coco.CLASSES[:count] if known else (),
            coco.PALETTE[:count] if known else (),
            _PREPROCESSING,
            tuple(_OUTPUTS[name] for name in model.output_names),
        )

    @property
    def refused(self) -> Mapping[str, str]:
        """See ``Form``."""
        return {
            precision: f"{precision} is offered for semantic segmenters, and this is for {self.task}: {reason}. "
            "Export it as fp32 or fp16."
            for precision, reason in _REFUSED.items()
        }

    def examples(self, n: int, h: int, w: int) -> dict[str, Tensor]:
        """See ``Form``: no image is padded."""
        return {**super().examples(n, h, w), _IMAGE_SIZES.name: torch.tensor([[h, w]] * n)}

    def image_interface(self) -> ir.passes.PassBase:
        """See ``Form``: boxes are in the picture's pixels."""
        return WrapDetectorInImageInterfacePass(self.preprocessing)
