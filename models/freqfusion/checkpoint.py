# SPDX-License-Identifier: Apache-2.0
"""Loads official-layout checkpoints strictly, and reads what they say about themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqfusion.checkpoint_files.formats import read_content
from freqfusion.checkpoint_files.placeholders import as_mapping
from freqfusion.checkpoint_files.plain_data import Array
from freqfusion.checkpoint_files.weights import Choice, find_weights
from freqfusion.configs.findings import Settings
from freqfusion.configs.overrides import Overrides
from freqfusion.configs.reader import read_config
from freqfusion.configs.settings import settings_of
from freqfusion.errors import CheckpointError, UnknownModelError
from freqfusion.registry import arguments_for, create_model, recognize_model

_MOST_TOLD = 10  # entries of each kind in a message


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's weights and what its ``meta`` says.

    Attributes:
        state_dict: Weights by name.
        classes: Class names, if given; empty if what is given cannot be read.
        palette: One RGB colour per class, if given.
        settings: What the config in its ``meta`` says about testing, as far as it says.
        weights: ``trained``, or ``random`` for a checkpoint that says its weights are made up.
        model: The model's name, if given: what tells apart models that have equal keys or are not official.
        notes: What was taken, stripped, renamed, left out and not understood on the way, a sentence each.
    """

    state_dict: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    settings: Settings = field(default_factory=Settings)
    weights: str = "trained"
    model: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Scale of the test pipeline (long side, short side), if given."""
        return self.settings.image_size


def read_checkpoint(path: str | Path, which: Choice | None = None) -> Checkpoint:
    """Reads weights from a file, whatever its suffix, or a folder; runs no code from it.

    Formats: ``torch.save`` of any version since 0.1.10, plain pickles of arrays or tensors such as detectron2's,
    safetensors, and folders of shards with an index. Tensors may be views of the file, which must not be overwritten
    in place while they are used. Objects beside the weights are not rebuilt, and nothing of them is imported.

    Args:
        path: The file, the folder, or its index.
        which: ``model`` or ``ema``, for a file with weights as trained and running averages of them; None takes the
            weights as trained, but averages where they are the only ones or stand in their place.

    Raises:
        CheckpointError: If the file is missing, truncated, hostile, or holds no weights or several.
    """
    path = Path(path)
    content = read_content(path)
    try:
        state_dict, notes = find_weights(content, which)
    except CheckpointError as e:
        raise CheckpointError(f"{path}: {e}") from e
    meta = as_mapping((as_mapping(content) or {}).get("meta")) or {}
    checkpoint = _with_meta(state_dict, meta)
    return replace(checkpoint, notes=(*notes, *checkpoint.notes))


def load_checkpoint(model: nn.Module, path: str | Path, which: Choice | None = None) -> Checkpoint:
    """Loads a checkpoint's weights into a model, strictly.

    Args:
        model: A module with the official names, e.g. from ``create_model``.
        path, which: As ``read_checkpoint`` takes them.

    Returns:
        What was read.

    Raises:
        CheckpointError: If the file cannot be read, or does not fit; the message counts the missing, unexpected and
            mis-shaped entries and lists the first of each, and the model is left as it was.
    """
    checkpoint = read_checkpoint(path, which)
    fit(model, checkpoint, path)
    return checkpoint


def fit(model: nn.Module, checkpoint: Checkpoint, path: str | Path) -> None:
    """Loads ``checkpoint`` (read from ``path``) into ``model``; raises ``CheckpointError`` as ``load_checkpoint``."""
    expected = model.state_dict()
    found = checkpoint.state_dict
    # Buffers that are not saved, such as the factorisation's bases; mmcv saves them all the same.
    wanted = {**expected, **{name: buffer for name, buffer in model.named_buffers() if name in found}}
    both = [name for name in wanted if name in found]
    problems = {
        "missing": [f"{name} {tuple(tensor.shape)}" for name, tensor in expected.items() if name not in found],
        "unexpected": [f"{name} {tuple(found[name].shape)}" for name in found if name not in wanted],
        "wrong shape": [
            f"{name} is {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
            for name in both
            if found[name].shape != wanted[name].shape
        ],
        "without values": [name for name in both if found[name].is_meta],
    }
    count = sum(map(len, problems.values()))
    if count:
        raise CheckpointError(
            f"{path} does not fit the model: {count} of {len(expected)} entries differ. {_suggestion(found)}"
            + "".join(f"\n  {line}" for kind, lines in problems.items() for line in _told(kind, lines))
        )
    model.load_state_dict({name: _plain(found[name]) for name in both}, strict=True)


def _told(kind: str, lines: Sequence[str]) -> list[str]:
    more = len(lines) - _MOST_TOLD
    return [f"{kind}: {line}" for line in lines[:_MOST_TOLD]] + ([f"{kind}: {more} more"] if more > 0 else [])


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    return tensor.to_dense() if tensor.layout != torch.strided else tensor


def load_model(
    path: str | Path,
    name: str | None = None,
    overrides: Overrides | None = None,
    *,
    which: Choice | None = None,
    **arguments: Any,
) -> tuple[nn.Module, str, Checkpoint]:
    """Builds the model a checkpoint is of and loads it.

    Args:
        path: As ``read_checkpoint`` takes it.
        name: The model; if None, what the checkpoint says it is, else recognised from its keys.
        overrides: What the user says in place of the checkpoint's config.
        which: As ``read_checkpoint`` takes it.
        arguments: Passed to ``create_model``; what is not given and can be read from the checkpoint is: ``num_classes``
            from the weights, options that do not show in them, such as ``nmf_rank``, from its config.

    Returns:
        The model in evaluation mode, its name, and what was read.

    Raises:
        CheckpointError: If the file cannot be read or does not fit.
        UnknownModelError: If ``name`` is unknown, or None and the keys are those of no model.
    """
    checkpoint = read_checkpoint(path, which)
    if overrides is not None:
        checkpoint = replace(checkpoint, settings=overrides.applied(checkpoint.settings, checkpoint.state_dict))
    try:
        model_name = name or checkpoint.model or recognize_model(checkpoint.state_dict)[0]
        arguments = {**arguments_for(model_name, checkpoint.state_dict), **checkpoint.settings.network, **arguments}
    except UnknownModelError as e:
        raise UnknownModelError(f"{path}: {e}") from e
    except CheckpointError as e:
        raise CheckpointError(f"{path}: {e}") from e
    model = _built(model_name, arguments, path)
    fit(model, checkpoint, path)
    return model, model_name, checkpoint


def _built(name: str, arguments: Mapping[str, Any], path: str | Path) -> nn.Module:
    try:
        return create_model(name, **arguments)
    except ValueError as e:  # settings that the model does not take together
        raise CheckpointError(f"{path}: {e}") from e


def _with_meta(state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Checkpoint:
    dataset = as_mapping(meta.get("dataset_meta")) or meta
    classes, class_notes = _as_names(dataset.get("CLASSES", dataset.get("classes")))
    palette, palette_notes = _as_palette(dataset.get("PALETTE", dataset.get("palette")))
    return Checkpoint(
        state_dict,
        classes=classes,
        palette=palette,
        settings=settings_of(read_config(meta.get("config", meta.get("cfg"))), state_dict, meta.get("image_size")),
        weights="random" if meta.get("weights") == "random" else "trained",
        model=meta["model"] if isinstance(meta.get("model"), str) else None,
        notes=(*class_notes, *palette_notes),
    )


def _as_list(value: Any) -> list[Any] | None:
    """Takes lists, arrays and dictionaries that number their values from 0 as lists."""
    if isinstance(value, Array):
        return value.tolist()
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping) and {str(key) for key in value} == {str(i) for i in range(len(value))}:
        value = [value[key] for key in sorted(value, key=lambda key: int(key))]
    return list(value) if isinstance(value, list | tuple) else None


def _as_names(value: Any) -> tuple[tuple[str, ...] | None, list[str]]:
    if value is None:
        return None, []
    names = _as_list(value)
    if names and all(isinstance(name, str) for name in names):
        return tuple(names), []
    kind = type(value).__name__ if names is None else "list of other things than names"
    return (), [f"did not understand the class names: a list of texts is expected, and they are a {kind}"]


def _as_palette(value: Any) -> tuple[tuple[tuple[int, int, int], ...] | None, list[str]]:
    if value is None:
        return None, []
    try:
        levels = [[float(level) for level in (_as_list(color) or ())] for color in _as_list(value) or ()]
    except (TypeError, ValueError):
        levels = []
    if not levels or any(len(color) != 3 or min(color) < 0 or not max(color) <= 255 for color in levels):
        return None, ["did not understand the palette: three levels from 0 to 255 are expected for each class"]
    is_share = any(level % 1 for color in levels for level in color) and all(max(color) <= 1 for color in levels)
    scale = 255 if is_share else 1
    colors = tuple((round(r * scale), round(g * scale), round(b * scale)) for r, g, b in levels)
    return colors, ["took the palette's levels from 0 to 1 as shares of 255"] if is_share else []


def _suggestion(found: Mapping[str, Tensor]) -> str:
    try:
        name, num_classes = recognize_model(found)
    except UnknownModelError as e:
        return str(e)
    return f"Its entries are those of {name!r} with {num_classes} classes."
