# SPDX-License-Identifier: Apache-2.0
"""Loads official-layout checkpoints strictly, and reads what they say about themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqfusion.configs.findings import Settings
from freqfusion.configs.overrides import Overrides
from freqfusion.configs.reader import read_config
from freqfusion.configs.settings import settings_of
from freqfusion.errors import CheckpointError, UnknownModelError
from freqfusion.pickles import read_pickle, read_torch
from freqfusion.registry import arguments_for, create_model, recognize_model

# Under which key the weights lie: mm-style, detectron2 and plain checkpoints.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "module")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's weights and what its ``meta`` says.

    Attributes:
        state_dict: Weights by name.
        classes: Class names, if given.
        palette: One RGB colour per class, if given.
        settings: What the config in its ``meta`` says about testing, as far as it says.
        weights: ``trained``, or ``random`` for a checkpoint that says its weights are made up.
        model: The model's name, if given: what tells apart models that have equal keys or are not official.
    """

    state_dict: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    settings: Settings = field(default_factory=Settings)
    weights: str = "trained"
    model: str | None = None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Scale of the test pipeline (long side, short side), if given."""
        return self.settings.image_size


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads an mm-style ``.pth``, detectron2 ``.pkl``, plain ``.pt`` or ``.safetensors`` file; runs no code from it.

    Raises:
        CheckpointError: If the file is missing, truncated, hostile, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); fetch it again")
    if path.suffix == ".safetensors":
        weights, meta = _read_safetensors(path)
    else:
        content = read_pickle(path) if path.suffix == ".pkl" else read_torch(path)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
        meta = content.get("meta", {})
        weights = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content)
    state_dict = {name: torch.as_tensor(value) for name, value in weights.items() if _is_array(value)}
    if not state_dict:
        raise CheckpointError(f"{path} holds no weights; keys found: {sorted(map(str, weights))[:10]}")
    if all(name.startswith("module.") for name in state_dict):  # written by DataParallel
        state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
    return _with_meta(state_dict, meta if isinstance(meta, Mapping) else {})


def load_checkpoint(model: nn.Module, path: str | Path) -> Checkpoint:
    """Loads a checkpoint's weights into a model, strictly.

    Args:
        model: A module with the official names, e.g. from ``create_model``.
        path: As ``read_checkpoint`` takes it.

    Returns:
        What was read.

    Raises:
        CheckpointError: If the file cannot be read, or does not fit; the message lists every missing, unexpected and
            mis-shaped entry, and the model is left as it was.
    """
    checkpoint = read_checkpoint(path)
    fit(model, checkpoint, path)
    return checkpoint


def fit(model: nn.Module, checkpoint: Checkpoint, path: str | Path) -> None:
    """Loads ``checkpoint`` (read from ``path``) into ``model``; raises ``CheckpointError`` as ``load_checkpoint``."""
    expected = model.state_dict()
    found = checkpoint.state_dict
    problems = [f"missing: {name} {tuple(tensor.shape)}" for name, tensor in expected.items() if name not in found]
    problems += [f"unexpected: {name} {tuple(found[name].shape)}" for name in found if name not in expected]
    problems += [
        f"wrong shape: {name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not fit the model: {len(problems)} of {len(expected)} entries differ. {_suggestion(found)}"
            + "".join(f"\n  {problem}" for problem in problems)
        )
    model.load_state_dict(dict(found), strict=True)


def load_model(
    path: str | Path, name: str | None = None, overrides: Overrides | None = None, **arguments: Any
) -> tuple[nn.Module, str, Checkpoint]:
    """Builds the model a checkpoint is of and loads it.

    Args:
        path: As ``read_checkpoint`` takes it.
        name: The model; if None, what the checkpoint says it is, else recognised from its keys.
        overrides: What the user says in place of the checkpoint's config.
        arguments: Passed to ``create_model``; what is not given and can be read from the checkpoint is: ``num_classes``
            from the weights, options that do not show in them, such as ``nmf_rank``, from its config.

    Returns:
        The model in evaluation mode, its name, and what was read.

    Raises:
        CheckpointError: If the file cannot be read or does not fit.
        UnknownModelError: If ``name`` is unknown, or None and the keys are those of no model.
    """
    checkpoint = read_checkpoint(path)
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


def _read_safetensors(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as e:
        raise CheckpointError(f"{path}: reading safetensors needs `pip install 'freqfusion-deploy[export]'`") from e
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
            meta = {key: json.loads(text) if text[:1] in "[{" else text for key, text in texts.items()}
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118  (not a dict)
    except (SafetensorError, ValueError) as e:
        raise CheckpointError(f"{path} cannot be read as safetensors: {e}. Fetch it again") from e


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or type(value).__module__ == "numpy"


def _with_meta(state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Checkpoint:
    dataset = meta.get("dataset_meta") if isinstance(meta.get("dataset_meta"), Mapping) else meta
    assert dataset is not None
    classes = dataset.get("CLASSES", dataset.get("classes"))
    palette = dataset.get("PALETTE", dataset.get("palette"))
    return Checkpoint(
        state_dict,
        classes=tuple(map(str, classes)) if _is_list(classes) else None,
        palette=_as_palette(palette),
        settings=settings_of(read_config(meta.get("config", meta.get("cfg"))), state_dict, meta.get("image_size")),
        weights="random" if meta.get("weights") == "random" else "trained",
        model=meta["model"] if isinstance(meta.get("model"), str) else None,
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value)


def _as_palette(value: Any) -> tuple[tuple[int, int, int], ...] | None:
    try:
        return tuple((int(r), int(g), int(b)) for r, g, b in value) if _is_list(value) else None
    except (TypeError, ValueError):
        return None


def _suggestion(found: Mapping[str, Tensor]) -> str:
    try:
        name, num_classes = recognize_model(found)
    except UnknownModelError as e:
        return str(e)
    return f"Its entries are those of {name!r} with {num_classes} classes."
