# SPDX-License-Identifier: Apache-2.0
"""The models by name, and how a state_dict is recognised as one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from freqfusion.errors import UnknownModelError
from freqfusion.segnext import SegNeXt


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        build: Makes the module; keywords as ``create_model`` takes them.
        description: One line for listings.
        class_weight: The state_dict entry whose first dimension is the number of classes.
        official: Whether the paper's repository has it; the others are for comparison and never recognised from keys.
    """

    build: Callable[..., nn.Module]
    description: str
    class_weight: str
    official: bool = True


def _bilinear_twin(**arguments: Any) -> nn.Module:
    return SegNeXt(fusion="bilinear", **arguments)


_MODELS = {
    "segnext_t": Entry(
        SegNeXt, "SegNeXt-T + FreqFusion, ADE20K, 43.5 mIoU in the paper", "decode_head.conv_seg.weight"
    ),
    "segnext_t_bilinear": Entry(
        _bilinear_twin,
        "SegNeXt-T with bilinear fusion, to show what FreqFusion costs",
        "decode_head.conv_seg.weight",
        official=False,
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
        arguments: ``num_classes``, ``bases_seed``: as the model's class takes them.

    Returns:
        A module whose state_dict has exactly the official names and shapes.

    Raises:
        UnknownModelError: If there is no such model.
    """
    return _entry(name).build(**arguments).eval()


def recognize_model(state_dict: Mapping[str, Tensor]) -> tuple[str, int]:
    """Finds the official model that has exactly these keys.

    Returns:
        Its name and the number of classes.

    Raises:
        UnknownModelError: If none has; the message names the nearest and what differs.
    """
    differences: dict[str, tuple[set[str], set[str]]] = {}
    for name, entry in _MODELS.items():
        if not entry.official:
            continue
        expected = set(_expected_keys(name))
        found = set(state_dict)
        if expected == found:
            return name, int(state_dict[entry.class_weight].shape[0])
        differences[name] = (expected - found, found - expected)
    nearest = min(differences, key=lambda name: sum(map(len, differences[name])))
    missing, unexpected = differences[nearest]
    raise UnknownModelError(
        f"these {len(state_dict)} entries are those of no known model; the nearest is {nearest!r}, "
        f"{len(missing)} of whose entries are missing (e.g. {_example(missing)}) and to which {len(unexpected)} are "
        f"unknown (e.g. {_example(unexpected)}). Known models: {', '.join(differences)}; name one to see all."
    )


def _entry(name: str) -> Entry:
    if name not in _MODELS:
        raise UnknownModelError(f"unknown model {name!r}; known models: {', '.join(_MODELS)}")
    return _MODELS[name]


def _expected_keys(name: str) -> list[str]:
    from torch import device

    with device("meta"):
        return list(_entry(name).build().state_dict())


def _example(keys: set[str]) -> str:
    return repr(min(keys)) if keys else "none"
