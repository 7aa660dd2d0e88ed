# SPDX-License-Identifier: Apache-2.0
"""Which kind of network a model is."""

from __future__ import annotations

from dataclasses import replace

from freqfusion import Checkpoint
from freqfusion.detection import Detector
from torch import nn

from freqfusion_export.networks.detector import DetectorForm
from freqfusion_export.networks.protocol import Form
from freqfusion_export.networks.segmenter import SegmenterForm


def form_of(model: nn.Module, checkpoint: Checkpoint | None = None) -> Form:
    """Finds out what kind of network ``model`` is; the checkpoint's class names and image size go before known ones.

    Raises:
        ExportError: If it is neither a semantic segmenter nor a detector.
    """
    form: Form = DetectorForm.of(model) if isinstance(model, Detector) else SegmenterForm.of(model)
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
