# SPDX-License-Identifier: Apache-2.0
"""What the entries of a Mask2Former checkpoint say of the network: its Swin, its layers, its queries and classes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from freqfusion.errors import CheckpointError

CLASS_WEIGHT = "sem_seg_head.predictor.class_embed.weight"
SIZES: Mapping[str, Mapping[str, Any]] = {
    "mask2former_swin_b": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "window_size": 12},
    "mask2former_swin_l": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "window_size": 12},
}
"""What the official models differ in, by name."""

_STAGES = tuple(f"backbone.layers.{stage}.blocks." for stage in range(4))
_TABLE = "0.attn.relative_position_bias_table"
_COUNTED = {
    "encoder_layers": "sem_seg_head.pixel_decoder.transformer.encoder.layers.",
    "decoder_layers": "sem_seg_head.predictor.transformer_ffn_layers.",
}
_FIRST_SIDES = {
    "num_queries": "sem_seg_head.predictor.query_feat.weight",
    "embed_dim": "backbone.patch_embed.proj.weight",
    "channels": "sem_seg_head.pixel_decoder.mask_features.weight",
}


def arguments_of(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Reads the arguments of :class:`Mask2Former` from a checkpoint, as far as it has the entries that show them.

    Returns:
        ``num_classes`` first, if there is a classifier.

    Raises:
        CheckpointError: If its entries are of no one Swin: widths that do not double from stage to stage, or tables of
            positions that are of no window, or of several.
    """
    arguments: dict[str, Any] = {}
    if CLASS_WEIGHT in state_dict:
        arguments["num_classes"] = state_dict[CLASS_WEIGHT].shape[0] - 1
    arguments |= {name: state_dict[entry].shape[0] for name, entry in _FIRST_SIDES.items() if entry in state_dict}
    arguments |= {name: count for name, start in _COUNTED.items() if (count := _count(state_dict, start))}
    depths = tuple(_count(state_dict, start) for start in _STAGES)
    tables = [state_dict[start + _TABLE] for start in _STAGES if start + _TABLE in state_dict]
    if not all(depths) or len(tables) < len(_STAGES):
        return arguments
    _check_widths(state_dict)
    windows = {_window(table) for table in tables}
    if len(windows) > 1:
        raise CheckpointError(f"all stages of a Swin have windows of one size, got {sorted(windows)}; {_REMEDY}")
    heads = tuple(table.shape[1] for table in tables)
    _check_heads(heads, state_dict)
    return {**arguments, "depths": depths, "num_heads": heads, "window_size": windows.pop()}


def is_of_another_size(name: str, state_dict: Mapping[str, Tensor]) -> str:
    """Says what of a checkpoint's Swin is not that of the official model ``name``; nothing if all is."""
    found = arguments_of(state_dict)
    wrong = [key for key, value in SIZES[name].items() if found.get(key, value) != value]
    return ", ".join(f"{key} {found[key]} in place of {SIZES[name][key]}" for key in wrong)


def arguments_of_size(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Reads a checkpoint's arguments as :func:`arguments_of` does, and holds them against the official model ``name``.

    Raises:
        CheckpointError: If they are of another Swin.
    """
    if wrong := is_of_another_size(name, state_dict):
        raise CheckpointError(
            f"these weights are of another Swin than that of {name}: {wrong}. "
            "Name the model 'mask2former', which takes any, or none, to have it recognised"
        )
    return arguments_of(state_dict)


_REMEDY = "was the checkpoint put together from several? Fetch it again"


def _count(state_dict: Mapping[str, Tensor], start: str) -> int:
    """How many modules are numbered behind ``start``."""
    numbered = re.compile(re.escape(start) + r"(\d+)\.")
    return 1 + max((int(match[1]) for name in state_dict if (match := numbered.match(name))), default=-1)


def _check_widths(state_dict: Mapping[str, Tensor]) -> None:
    widths = [state_dict[entry].shape[0] for start in _STAGES if (entry := f"{start}0.norm1.weight") in state_dict]
    if widths != [widths[0] * 2**stage for stage in range(len(_STAGES))]:
        raise CheckpointError(f"the stages of a Swin double in width, got {widths} channels; {_REMEDY}")


def _check_heads(heads: tuple[int, ...], state_dict: Mapping[str, Tensor]) -> None:
    for stage, (start, count) in enumerate(zip(_STAGES, heads, strict=True)):
        norm = state_dict.get(f"{start}0.norm1.weight")
        if norm is not None and norm.shape[0] % count:
            raise CheckpointError(
                f"the heads of stage {stage} must divide its {norm.shape[0]} channels, got {count}; {_REMEDY}"
            )


def _window(table: Tensor) -> int:
    side = math.isqrt(table.shape[0])
    if table.dim() != 2 or side**2 != table.shape[0] or side % 2 == 0:
        raise CheckpointError(
            f"a table of relative positions has (2 * window - 1)**2 rows, got {tuple(table.shape)}; {_REMEDY}"
        )
    return (side + 1) // 2
