# SPDX-License-Identifier: Apache-2.0
"""The models by name, and how a state_dict is recognised as one of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from freqfusion.detection.detector import Detector, arguments_of
from freqfusion.errors import UnknownModelError
from freqfusion.mask2former import Mask2Former, checkpoint_arguments
from freqfusion.segnext import SegNeXt


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        build: Makes the module; keywords as ``create_model`` takes them.
        description: One line for listings.
        class_weight: A state_dict entry every checkpoint of the model has; ``arguments`` reads it.
        arguments: Reads from a state_dict that has ``class_weight`` what ``build`` must be told, ``num_classes`` first.
        official: Whether the paper's repository has it; the others are for comparison and never recognised from keys.
        naming: Which of these arguments decide the names of the entries.
        is_another: Whether a state_dict with its names is of another model all the same.
    """

    build: Callable[..., nn.Module]
    description: str
    class_weight: str
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    official: bool = True
    naming: tuple[str, ...] = ()
    is_another: Callable[[Mapping[str, Tensor]], Any] = lambda _: False


def _segmenter_entry(build: Callable[..., nn.Module], description: str, official: bool = True) -> Entry:
    weight = "decode_head.conv_seg.weight"
    return Entry(build, description, weight, lambda found: {"num_classes": found[weight].shape[0]}, official)


def _detector_entry(description: str, official: bool = True, **settings: Any) -> Entry:
    build = functools.partial(_detector, settings)
    return Entry(build, description, "roi_head.bbox_head.fc_cls.weight", arguments_of, official, ("norm",))


def _mask2former_entry(size: str | None, description: str, official: bool = True, **settings: Any) -> Entry:
    """Describes Mask2Former with one of the official Swins, or with the one that a checkpoint shows."""
    build = functools.partial(_mask2former, {**(checkpoint_arguments.SIZES[size] if size else {}), **settings})
    weight = checkpoint_arguments.CLASS_WEIGHT
    if size is None:
        return Entry(build, description, weight, checkpoint_arguments.arguments_of, official, _SWIN)
    arguments = functools.partial(checkpoint_arguments.arguments_of_size, size)
    is_another = functools.partial(checkpoint_arguments.is_of_another_size, size)
    return Entry(build, description, weight, arguments, official, _LAYERS, is_another)


_LAYERS = ("encoder_layers", "decoder_layers")
_SWIN = ("embed_dim", "depths", "num_heads", "window_size", *_LAYERS)


def _mask2former(settings: dict[str, Any], bases_seed: int = 0, **arguments: Any) -> nn.Module:
    return Mask2Former(**{**settings, **arguments})


def _detector(settings: dict[str, Any], bases_seed: int = 0, **arguments: Any) -> nn.Module:
    """Builds a detector; ``bases_seed``, which every model takes, is for models with factorisation bases."""
    return Detector(**{**settings, **arguments})


_MODELS = {
    "segnext_t": _segmenter_entry(SegNeXt, "SegNeXt-T + FreqFusion, ADE20K, 43.5 mIoU in the paper"),
    "segnext_t_bilinear": _segmenter_entry(
        functools.partial(SegNeXt, fusion="bilinear"),
        "SegNeXt-T with bilinear fusion, to show what FreqFusion costs",
        official=False,
    ),
    "faster_rcnn_r50": _detector_entry("Faster R-CNN, ResNet-50 + FreqFusion, COCO boxes", depth=50),
    "faster_rcnn_r101": _detector_entry("Faster R-CNN, ResNet-101 + FreqFusion, COCO boxes", depth=101, groups=8),
    "mask_rcnn_r50": _detector_entry(
        "Mask R-CNN, ResNet-50 + FreqFusion, COCO boxes and masks", depth=50, has_masks=True
    ),
    "mask_rcnn_r101": _detector_entry(
        "Mask R-CNN, ResNet-101 + FreqFusion, COCO boxes and masks", depth=101, has_masks=True
    ),
    "mask_rcnn_r50_nearest": _detector_entry(
        "Mask R-CNN, ResNet-50 with a classic pyramid, to show what FreqFusion costs",
        official=False,
        depth=50,
        has_masks=True,
        fusion="nearest",
    ),
    "panoptic_fpn_r50": _detector_entry(
        "Panoptic FPN, ResNet-50 + FreqFusion, COCO panoptic", depth=50, has_masks=True, num_stuff=53, norm=False
    ),
    "panoptic_fpn_r101": _detector_entry(
        "Panoptic FPN, ResNet-101 + FreqFusion, COCO panoptic", depth=101, has_masks=True, num_stuff=53
    ),
    "mask2former_swin_b": _mask2former_entry(
        "mask2former_swin_b", "Mask2Former, Swin-B + FreqFusion, ADE20K, 55.7 mIoU in the paper"
    ),
    "mask2former_swin_l": _mask2former_entry(
        "mask2former_swin_l", "Mask2Former, Swin-L + FreqFusion, ADE20K, 57.0 mIoU in the paper"
    ),
    "mask2former": _mask2former_entry(None, "Mask2Former + FreqFusion on any Swin, which a checkpoint shows"),
    "mask2former_swin_b_bilinear": _mask2former_entry(
        "mask2former_swin_b",
        "Mask2Former, Swin-B with bilinear fusion, to show what FreqFusion costs",
        official=False,
        fusion="bilinear",
    ),
}


def list_models() -> list[str]:
    """Returns the names ``create_model`` takes."""
    return list(_MODELS)


def describe_model(name: str) -> str:
    """Returns one line about the model ``name``."""
    return _entry(name).description


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Builds a model in evaluation mode, with random weights.

    Args:
        name: One of ``list_models()``.
        arguments: ``num_classes``, ``bases_seed`` and what weights do not show, such as ``nmf_rank``, ``threshold`` (of
            a segmenter of one class) or ``score_threshold``: as the model's class takes them. Detectors also take
            ``groups`` and ``norm``, which by default are those of the official configuration of that name.

    Returns:
        A module whose state_dict has exactly the official names and shapes.

    Raises:
        UnknownModelError: If there is no such model.
    """
    return _entry(name).build(**arguments).eval()


def recognize_model(state_dict: Mapping[str, Tensor]) -> tuple[str, int]:
    """Finds the official model that has exactly these keys.

    Returns:
        Its name and the number of classes; of a panoptic model, of things.

    Raises:
        UnknownModelError: If none has; the message names the nearest and what differs.
        CheckpointError: If the keys are a detector's, but its resamplers' shapes are those of no configuration, or if
            they are Mask2Former's, of a Swin that contradicts itself.
    """
    differences: dict[str, tuple[set[str], set[str]]] = {}
    found = set(state_dict)
    for name, entry in _MODELS.items():
        if not entry.official or entry.is_another(state_dict):
            continue
        expected, passing = _expected_keys(name, state_dict)
        if expected == found - passing:
            return name, int(entry.arguments(state_dict)["num_classes"])
        differences[name] = (expected - found, found - passing - expected)
    nearest = min(differences, key=lambda name: sum(map(len, differences[name])))
    missing, unexpected = differences[nearest]
    known = ", ".join(name for name, entry in _MODELS.items() if entry.official)
    if len(unexpected) > len(found) / 2:  # naming a model would mislead
        raise UnknownModelError(
            f"these {len(found)} entries are those of no known model, and most are in none of them (e.g. "
            f"{_example(unexpected)}). Known models: {known}; entries begin with backbone. there."
        )
    raise UnknownModelError(
        f"these {len(found)} entries are those of no known model; the nearest is {nearest!r}, "
        f"{len(missing)} of whose entries are missing (e.g. {_example(missing)}) and to which {len(unexpected)} are "
        f"unknown (e.g. {_example(unexpected)}). Known models: {known}; name one to see all."
    )


def arguments_for(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Reads from a checkpoint what ``create_model(name, ...)`` must be told so that it can fit.

    Returns:
        ``num_classes`` and, for detectors, ``groups``, ``norm`` and ``num_stuff``, for Mask2Former its Swin, layers and
        queries; nothing if even the classifier is missing.

    Raises:
        UnknownModelError: If there is no such model.
        CheckpointError: As :func:`recognize_model`, or if they are of another Swin than that of ``name``.
    """
    entry = _entry(name)
    return entry.arguments(state_dict) if entry.class_weight in state_dict else {}


def _entry(name: str) -> Entry:
    if name not in _MODELS:
        raise UnknownModelError(f"unknown model {name!r}; known models: {', '.join(_MODELS)}")
    return _MODELS[name]


def _expected_keys(name: str, state_dict: Mapping[str, Tensor]) -> tuple[set[str], set[str]]:
    """Keys of the model, in the variant that the checkpoint is of, and its buffers that are not saved."""
    from torch import device

    entry = _entry(name)
    with device("meta"):
        model = entry.build(**{k: v for k, v in arguments_for(name, state_dict).items() if k in entry.naming})
    expected = set(model.state_dict())
    return expected, {name for name, _ in model.named_buffers()} - expected


def _example(keys: set[str]) -> str:
    return repr(min(keys)[:100]) if keys else "none"
