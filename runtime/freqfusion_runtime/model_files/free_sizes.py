# SPDX-License-Identifier: Apache-2.0
"""Sizes that a model leaves free: their names, and what ties them to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from freqfusion_runtime.model_files.manifest import FreeSize, Manifest, TensorSpec

BATCH = "batch"
"""Name of the size along which inputs are independent of each other, so that requests can be joined."""


def name_and_divisor(side: str) -> tuple[str, int]:
    """Reads a free side: ``height`` is that size itself, ``height/2`` half of it."""
    name, _, divisor = side.partition("/")
    return name, int(divisor) if divisor.isdecimal() else 1


def free_sides(specs: Sequence[TensorSpec]) -> Iterator[tuple[str, int, str, int]]:
    """Lists the free sides of tensors: tensor, axis, and the size's name and what it is divided by."""
    for spec in specs:
        for axis, side in enumerate(spec.shape):
            if isinstance(side, str):
                yield spec.name, axis, *name_and_divisor(side)


def usual_shapes(manifest: Manifest, factor: int = 1) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's inputs as it was exported with, by name.

    Args:
        manifest: Of a model for ``network``.
        factor: Of all free sizes but the batch. One that the manifest does not know is 1.
    """

    def side(text: int | str) -> int:
        if isinstance(text, int):
            return text
        name, divisor = name_and_divisor(text)
        size = manifest.sizes.get(name, FreeSize(1, 1))
        return max(1, size.usual * (1 if name == BATCH else factor) // max(1, divisor))

    return {spec.name: tuple(map(side, spec.shape)) for spec in manifest.inputs}


def sizes_fault(
    specs: Sequence[TensorSpec], sizes: Mapping[str, FreeSize], shapes: Mapping[str, Sequence[int]]
) -> str | None:
    """Says what is wrong with the free sizes of inputs, or None.

    Args:
        specs: Of the inputs.
        sizes: By name. Sides of other names are of any size, each its own.
        shapes: Of the arrays, by the inputs' names, with as many sides as the specs say.

    Returns:
        A fact and its remedy: that one size is two numbers, or a number is no multiple.
    """
    known: dict[str, tuple[int, str, int]] = {}
    for tensor, axis, name, divisor in free_sides(specs):
        if name not in sizes:
            continue
        got = shapes[tensor][axis]
        size, first, place = known.setdefault(name, (got * divisor, tensor, axis))
        if size != got * divisor:
            share = f" 1/{divisor} of" if divisor > 1 else ""
            return (
                f"axis {axis} of input {tensor!r} must be{share} the size {name}, which is {size} by axis {place} of "
                f"{first!r}, got {got}. Give tensors of one picture."
            )
    for name, (size, tensor, axis) in known.items():
        step = sizes[name].multiple
        if size % step:
            below, above = size // step * step, -(-size // step) * step
            near = f"{below} or {above}" if below else f"{above}"
            return (
                f"the size {name} must be a multiple of {step}, got {size} by axis {axis} of input {tensor!r}. "
                f"Resize or pad it to {near}."
            )
    return None
