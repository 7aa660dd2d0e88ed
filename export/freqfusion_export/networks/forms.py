# SPDX-License-Identifier: Apache-2.0
"""What an exported file looks like from outside, by the kind of network: task, tensors, classes, pre-processing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import onnx_ir as ir
from freqfusion import Checkpoint
from freqfusion.detection import Detector
from freqfusion.ham_head import HamHead
from freqfusion_runtime.model_files.classes import ade20k, coco
from freqfusion_runtime.model_files.manifest import Preprocessing, Task
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.passes.wrap_detector_in_image_interface import WrapDetectorInImageInterfacePass
from freqfusion_export.passes.wrap_in_image_interface import WrapInImageInterfacePass

_DETECTION = Preprocessing(long_side=1333, short_side=800, size_divisor=Detector.size_divisor, size_fit="pad")
# Sizes that are free, and None for those only the traced network knows.
_SHAPES: Mapping[str, Sequence[int | str | None]] = {
    "images": ("batch", 3, "height", "width"),
    "image_sizes": ("batch", 2),
    "logits": ("batch", None, "height/8", "width/8"),
    "semantic": ("batch", None, "height/4", "width/4"),
}


@dataclass(frozen=True)
class Form:
    """One kind of network.

    Attributes:
        task: What it does.
        num_classes: Classes of the manifest.
        num_things: How many of them are things, for panoptic networks.
        classes: Names, if these classes are a known benchmark's.
        palette: Colours, likewise.
        preprocessing: The official test pipeline.
    """

    task: Task
    num_classes: int
    num_things: int | None
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    preprocessing: Preprocessing

    def image_interface(self, settings: Preprocessing) -> ir.passes.PassBase:
        """Returns the pass that takes the traced network to pictures."""
        if self.task == "semantic_segmentation":
            return WrapInImageInterfacePass(settings, self.num_classes)
        return WrapDetectorInImageInterfacePass(settings)


def form_of(model: nn.Module, checkpoint: Checkpoint | None = None) -> Form:
    """Finds out what kind of network ``model`` is; the checkpoint's class names and image size go before known ones.

    Raises:
        ExportError: If it is neither a semantic segmenter nor a detector.
    """
    form = _detector_form(model) if isinstance(model, Detector) else _segmenter_form(model)
    if checkpoint is None:
        return form
    if checkpoint.image_size is not None:
        long_side, short_side = checkpoint.image_size
        form = replace(form, preprocessing=replace(form.preprocessing, long_side=long_side, short_side=short_side))
    if checkpoint.classes is not None:
        # The official panoptic list has " truck"; a name of other classes gets no known colours.
        classes = tuple(name.strip() for name in checkpoint.classes)
        if len(classes) == 1 and form.task == "semantic_segmentation":
            classes = ("background", *classes)
        form = replace(form, classes=classes, palette=form.palette if classes == form.classes else ())
    palette = checkpoint.palette
    if palette is not None and len(palette) == 1 and form.task == "semantic_segmentation":
        palette = ((0, 0, 0), *palette)
    return form if palette is None else replace(form, palette=palette)


def name_sizes(graph: ir.Graph) -> None:
    """Gives the sizes of the traced network's tensors the names that manifests and error messages use."""
    for value in (*graph.inputs, *graph.outputs):
        shape = _SHAPES.get(str(value.name))
        if shape is not None:
            traced = value.shape or [None] * len(shape)
            value.shape = ir.Shape([old if new is None else new for new, old in zip(shape, traced, strict=True)])


def _segmenter_form(model: nn.Module) -> Form:
    try:
        count = cast(HamHead, model.get_submodule("decode_head")).num_labels
    except AttributeError as e:
        raise ExportError(f"{type(model).__name__} has no decode_head.conv_seg; it is no semantic segmenter") from e
    known = count == len(ade20k.CLASSES)
    return Form(
        "semantic_segmentation",
        count,
        None,
        ade20k.CLASSES if known else (),
        ade20k.PALETTE if known else (),
        Preprocessing(),
    )


def _detector_form(model: Detector) -> Form:
    things, stuff = model.num_classes, model.num_stuff
    if stuff is not None:
        known = (things, stuff) == (coco.NUM_THINGS, len(coco.CLASSES) - coco.NUM_THINGS)
        task: Task = "panoptic_segmentation"
    else:
        known = things == coco.NUM_THINGS
        task = "instance_segmentation" if model.has_masks else "detection"
    count = things + (stuff or 0)
    return Form(
        task,
        count,
        None if stuff is None else things,
        coco.CLASSES[:count] if known else (),
        coco.PALETTE[:count] if known else (),
        _DETECTION,
    )
