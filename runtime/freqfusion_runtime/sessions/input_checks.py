# SPDX-License-Identifier: Apache-2.0
"""Whether arrays are what a model takes; the same for every engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from freqfusion_runtime.errors import InputError
from freqfusion_runtime.model_files.free_sizes import sizes_fault
from freqfusion_runtime.model_files.manifest import Manifest, TensorSpec


class ArrayLike(Protocol):
    """What is checked of an array, on the host or a device."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""

    @property
    def dtype(self) -> object:
        """numpy's dtype or its name."""


def check_inputs(path: str | os.PathLike[str], wanted: Sequence[TensorSpec], inputs: Mapping[str, ArrayLike]) -> None:
    """Compares names, dtypes and fixed sides with what a model takes.

    Raises:
        InputError: If one is another.
    """
    specs = {spec.name: spec for spec in wanted}
    if set(inputs) != set(specs):
        raise InputError(f"{os.fspath(path)}: the inputs are {sorted(specs)}, got {sorted(inputs)}. Name each of them.")
    for name, spec in specs.items():
        value = inputs[name]
        if spec.dtype != value.dtype and np.dtype(spec.dtype) != value.dtype:
            raise InputError(
                f"input {name!r} must be {spec.dtype}, got {value.dtype}. Convert it with .astype({spec.dtype!r})."
            )
        fits = len(spec.shape) == len(value.shape) and all(
            not isinstance(side, int) or side == got for side, got in zip(spec.shape, value.shape, strict=True)
        )
        if not fits or 0 in value.shape:
            raise InputError(
                f"input {name!r} must have shape ({', '.join(map(str, spec.shape))}), got {value.shape}. "
                "Reshape it, or export the model with that size."
            )


def check_sides(manifest: Manifest, inputs: Mapping[str, ArrayLike]) -> None:
    """Makes sure that a network without its own preprocessing gets sides that it can halve as often as it does.

    Raises:
        InputError: If a side is no multiple of what the manifest says, or one size has two values.
    """
    if manifest.task == "network":
        fault = sizes_fault(manifest.inputs, manifest.sizes, {name: value.shape for name, value in inputs.items()})
        if fault is not None:
            raise InputError(fault)
        return
    if manifest.interface != "tensor":
        return
    step = manifest.preprocessing.size_divisor
    height, width = inputs[manifest.inputs[0].name].shape[-2:]
    if height % step or width % step:
        raise InputError(
            f"input {manifest.inputs[0].name!r} must have a height and a width that are multiples of {step}, "
            f"got {height} x {width}. Use freqfusion_runtime.load(path).predict(image), which resizes as the "
            f"official pipeline does, or resize to {-(-height // step) * step} x {-(-width // step) * step}."
        )
