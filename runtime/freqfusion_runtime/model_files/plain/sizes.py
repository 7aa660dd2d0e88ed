# SPDX-License-Identifier: Apache-2.0
"""Fixes sides of a graph's inputs, for readers that take no free ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from onnx import ModelProto

from freqfusion_runtime.errors import ModelFileError

Shape = tuple[int | str, ...]
_SIDE = re.compile(r"[1-9]\d{0,8}|[A-Za-z_]\w*")


def parse_shape(text: str) -> tuple[str, Shape]:
    """Reads ``images=1x3x512x512``, where a side may be a name, such as ``batch``, that stays free.

    Raises:
        ValueError: If it is not written so.
    """
    name, sign, sides = text.rpartition("=")
    found = sides.split("x")
    if not (sign and name and all(_SIDE.fullmatch(side) for side in found)):
        raise ValueError(f"must be NAME=SIDExSIDEx..., such as images=1x3x512x512, got {text!r}")
    return name, tuple(int(side) if side.isdigit() else side for side in found)


def fix_sizes(model: ModelProto, shapes: Mapping[str, Shape], source: str) -> None:
    """Fixes sides of inputs, in place; of the outputs no side is told any more that was free.

    Raises:
        ModelFileError: If there is no such input, it has another number of sides, or one of them is another number.
    """
    inputs = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    for name, shape in shapes.items():
        if name not in inputs:
            raise ModelFileError(
                f"{source} has no input {name!r}; its inputs are {', '.join(inputs)}. Name one of them."
            )
        told = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in inputs[name]]
        if len(told) != len(shape) or any(_contradict(a, b) for a, b in zip(told, shape, strict=True)):
            raise ModelFileError(
                f"input {name!r} of {source} has the sides {_words(told)}, which cannot be {_words(shape)}. "
                "Give a number for each free side."
            )
        for dim, side in zip(inputs[name], shape, strict=True):
            if isinstance(side, int):
                dim.dim_value = side
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.Clear()


def _contradict(told: int | str, wanted: int | str) -> bool:
    return isinstance(told, int) and told != wanted


def _words(shape: Sequence[int | str]) -> str:
    return " x ".join(str(side) or "?" for side in shape)
