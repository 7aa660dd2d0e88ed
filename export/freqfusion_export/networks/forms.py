# SPDX-License-Identifier: Apache-2.0
"""Which kind of network a model is."""

from __future__ import annotations

import warnings
from dataclasses import replace

from freqfusion import Checkpoint
from freqfusion.configs.findings import Setting
from freqfusion.detection import Detector
from freqfusion.mask2former import Mask2Former
from torch import nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.detector import DetectorForm
from freqfusion_export.networks.protocol import Form
from freqfusion_export.networks.query_segmenter import QuerySegmenterForm
from freqfusion_export.networks.segmenter import SegmenterForm

_MOST_TOLD = 5  # settings in a warning; the table has all


def form_of(model: nn.Module, checkpoint: Checkpoint | None = None) -> Form:
    """Finds out what kind of network ``model`` is; the checkpoint's class names and settings go before known ones.

    Raises:
        ExportError: If it is neither a semantic segmenter nor a detector, or its config asks for what is not built.

    Warns:
        UserWarning: If its config says what is not understood.
    """
    form = _form_of(model)
    if checkpoint is None:
        return form
    _refuse(checkpoint)
    _warn(checkpoint)
    form = replace(form, preprocessing=replace(form.preprocessing, **checkpoint.settings.preprocessing))
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


def _form_of(model: nn.Module) -> Form:
    if isinstance(model, Detector):
        return DetectorForm.of(model)
    return QuerySegmenterForm.of(model) if isinstance(model, Mask2Former) else SegmenterForm.of(model)


def _refuse(checkpoint: Checkpoint) -> None:
    refused = checkpoint.settings.refused
    if refused:
        raise ExportError(
            f"the config asks for what is not built: {'; '.join(map(_wish, refused))}. "
            "Override the setting (`freqfusion export --help`), or give it up with --ignore-setting "
            + " --ignore-setting ".join(setting.name for setting in refused)
        )


def _warn(checkpoint: Checkpoint) -> None:
    unknown = checkpoint.settings.not_understood
    if unknown:
        told = "; ".join(
            f"{setting.name} is {setting.found} (assumed: {setting.built})" for setting in unknown[:_MOST_TOLD]
        )
        more = f"; and {len(unknown) - _MOST_TOLD} more" if len(unknown) > _MOST_TOLD else ""
        hidden = " Give the file that training was started with as --config." if any(map(_is_hidden, unknown)) else ""
        warnings.warn(
            f"not understood in the config ({len(unknown)} in all), and where it matters in tests, answers are other "
            f"than the training code's: {told}{more}.{hidden}",
            stacklevel=3,
        )


def _is_hidden(setting: Setting) -> bool:
    return setting.name in ("_base_", "config")


def _wish(setting: Setting) -> str:
    remark = f" ({setting.remark})" if setting.remark else ""
    return f"{setting.name} is {setting.found}, and {setting.built} is built{remark}"
